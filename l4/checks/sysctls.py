"""Per-interface settings of the kernel's IPv4, as it takes them together with those for all interfaces."""

from dataclasses import dataclass

from l4.direct_return import IPV4_CONF


@dataclass(frozen=True, slots=True)
class InterfaceSetting:
    """One of net.ipv4.conf, for which the kernel takes the larger of `all` and the interface's own."""

    name: str
    interface: str
    everywhere: int
    own: int

    @property
    def effective(self) -> int:
        return max(self.everywhere, self.own)

    def __str__(self) -> str:
        return f"{key('all', self.name)} is {self.everywhere}, {key(self.interface, self.name)} is {self.own}"


def read_setting(interface: str, name: str) -> InterfaceSetting:
    """Raises OSError, ValueError."""
    everywhere, own = (int((IPV4_CONF / scope / name).read_text()) for scope in ("all", interface))
    return InterfaceSetting(name, interface, everywhere, own)


def key(interface: str, name: str) -> str:
    """As sysctl(8) takes it: a dot in an interface's name is written as a slash."""
    return f"net.ipv4.conf.{interface.replace('.', '/')}.{name}"
