"""The HTTPS API: mutual TLS on trio, one thin layer over `fleet.control`."""
