"""What publishing takes of an adapter's folder inside a bundle. The server takes the same, without torch."""

from ptune.engine.adapter_folder import (
    LEFT_OUT,
    check_name,
    install,
    of_bundle,
    prompt_of,
    write_record,
)

__all__ = ["LEFT_OUT", "check_name", "install", "of_bundle", "prompt_of", "write_record"]
