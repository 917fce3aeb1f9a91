"""The compiled part of the product; all else that a build needs to know is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "l4.table_build",
            sources=["l4/native/table_build.c"],
            extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra"],
        )
    ]
)
