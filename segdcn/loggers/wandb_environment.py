"""What the environment says of Weights & Biases: whether it is wanted, where its key is, the id of a run."""

import netrc
import os
import secrets
import string
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

WandbMode = Literal["auto", "online", "offline", "off"]


def wanted_mode() -> WandbMode:
    """Choose the mode that `auto` stands for."""
    match os.environ.get("WANDB_MODE", ""):
        case "disabled":
            return "off"
        case "offline" | "dryrun":
            return "offline"
        case _:
            return "online" if has_wandb_key() else "offline"


def has_wandb_key() -> bool:
    """Tell whether W&B has credentials, looking where it looks, without asking for them."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    # wandb's default server has had two names; `wandb login` of an older version wrote the first.
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    hosts = {urlsplit(server).netloc, "api.wandb.ai"}
    try:
        return not hosts.isdisjoint(netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False  # no such file


def new_wandb_id() -> str:
    """Make the id under which a run is known to W&B, also when it is resumed.

    Under W&B's agent the server has given one already.
    """
    return os.environ.get("WANDB_RUN_ID") or "".join(
        secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8)
    )


def keep_quiet_without_home() -> None:
    """Give W&B's service a place for its log where the home folder takes none; it would print it all."""
    if "WANDB_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wandb"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder at all
        os.environ["WANDB_CACHE_DIR"] = tempfile.mkdtemp(prefix="segdcn-wandb-")
