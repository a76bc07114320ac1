"""What each error code means, what causes it and what to do: the text of `fedq explain`."""

from dataclasses import dataclass
from textwrap import fill

from fedq.errors import CODES, FedqError


@dataclass(frozen=True)
class Explanation:
    """The causes of an error, what mends it, and a command that helps."""

    cause: str
    remedy: str
    command: str


EXPLAINED = {
    "FQ101": Explanation(
        "A strategy, codec, client, model, attack, data set or partition is named that fedq does not "
        "know. The name is misspelt, or it belongs to a package that is not installed in this "
        "environment.",
        "Take a name from the list of its kind. A package's own parts are found by their entry points "
        "once it is installed.",
        "fedq show strategies",
    ),
    "FQ102": Explanation(
        "A key of a config file or of --set does not exist. Each strategy, client, model and "
        "participation has keys of its own, in the section of that name, so a key of one strategy is "
        "unknown to another.",
        "Look at the part that the key is meant for; its settings are listed with their defaults.",
        "fedq show fedvote",
    ),
    "FQ103": Explanation(
        "A value is outside its range (rounds below 1, a share above 1) or of the wrong type (a word "
        'where a number is wanted). TOML is strict: 1 is an integer, 1.0 a number, "1" a word.',
        "The message quotes the value and its limits; print the resolved config to see what would run.",
        "fedq simulate --print-config",
    ),
    "FQ104": Explanation(
        "The file is not there, cannot be read, or is not TOML.",
        "Name a TOML file, or the directory of a run, whose run.toml is then read. A config to start from "
        "can be printed.",
        "fedq simulate --print-config > mine.toml",
    ),
    "FQ105": Explanation(
        "Two settings contradict each other: more clients in a round than there are, a codec that does "
        "not carry what the strategy sends, a client algorithm that another strategy needs, a model that "
        "does not fit the images.",
        "The message names both; change the one that the arrow points to. What a strategy brings along is "
        "shown with it.",
        "fedq show terngrad",
    ),
    "FQ106": Explanation(
        "A flag is malformed: an unknown option, a missing value, a --set without `=`, a goal or a grid "
        "that cannot be read.",
        "The help of each command lists its flags and ends with an example.",
        "fedq simulate --help",
    ),
    "FQ107": Explanation(
        "Runs are to be compared that were not given the same task: their data, model, number of clients "
        "or seeds differ, so a difference in accuracy may come from there.",
        "Name runs of one task and the same seeds; --anyway compares them all the same, and every label "
        "then says what differs.",
        "fedq show runs",
    ),
    "FQ201": Explanation(
        "The data set is neither on this machine nor can it be fetched: there is no such folder, or no network.",
        "Give a folder in the layout of the Hugging Face hub, connect, or use the digits that come with fedq.",
        "fedq simulate --data digits",
    ),
    "FQ202": Explanation(
        "The data were found and cannot be used: no split named train, no column of images or class "
        "labels, images of several sizes or of more than 8 bits a channel, examples without a label.",
        "The message says which; convert the data, and name the folder that holds them.",
        "fedq simulate --data-dir PATH",
    ),
    "FQ203": Explanation(
        "The path is not the directory of a run, or what is in it is damaged.",
        "Runs stand in runs/ unless --out said otherwise. A damaged run can be started again from its run.toml.",
        "fedq show runs",
    ),
    "FQ204": Explanation(
        "Another process is writing to this run: two commands with the same config and seed use the same directory.",
        "Wait for it, or change the seed or another setting. A lock never outlives its process.",
        "fedq simulate --seed 1",
    ),
    "FQ205": Explanation(
        "The run cannot be resumed: it is done, its data have changed, no checkpoint can be read, or no "
        "round was finished.",
        "A run that is done goes on with more rounds; otherwise start again from its run.toml.",
        "fedq resume RUN --rounds 40",
    ),
    "FQ206": Explanation(
        "Something outside fedq is missing: a folder that cannot be written to, a full disk, a package "
        "that is not installed, native kernels where they are needed.",
        "The message names it. The doctor tries every part of this environment.",
        "fedq doctor",
    ),
    "FQ207": Explanation(
        "A deployment is not as it must be: a site's version or number differs from the run's, a site does "
        "not answer, the server's certificate is refused, or files of the deployment are missing.",
        "The message names the site and what differs.",
        "fedq deploy --help",
    ),
    "FQ208": Explanation(
        "The server of a deployment is not up, or no way leads to it from here.",
        "Start it, or see what stands between; a run that was begun waits for it as long as --patience says.",
        "fedq doctor --deploy DIR",
    ),
    "FQ301": Explanation(
        "A client raised an error while it trained or packed its update, and the share of clients that "
        "may fail was used up. Rounds before stand in the run directory; log.txt has the traceback.",
        "Play this one client alone in this process, where a debugger sees it; or let a share of the clients fail.",
        "fedq simulate RUN --only-client 7 --round 1 --debug",
    ),
    "FQ302": Explanation(
        "A reply did not have the form that was agreed on: another codec, shape or length, or bytes that "
        "the codec never writes. Nothing of it was aggregated.",
        "Server and clients must run the same config and version of fedq. --tolerate SHARE goes on "
        "without such clients.",
        "fedq simulate --tolerate 0.1",
    ),
    "FQ303": Explanation(
        "A value cannot be packed: not a number, infinite, or outside [-1, 1] for a codec of such values. "
        "Training that diverges is the usual cause.",
        "Lower the learning rate, or choose a codec that sends a scale along (scaled_binary and the like).",
        "fedq simulate --lr 0.01",
    ),
    "FQ304": Explanation(
        "Clients were asked, and no reply could be used: all failed or were rejected.",
        "The hint says what was wrong with the last. Play one of the clients alone to see where it fails.",
        "fedq simulate RUN --only-client 0 --round 1 --debug",
    ),
    "FQ305": Explanation(
        "The strategy raised an error on the server. The run can be resumed once it is mended; log.txt "
        "has the traceback.",
        "Hold a strategy of your own to its contract: fedq.testing.check_strategy finds most of this in seconds.",
        "fedq show runs",
    ),
}


def explained(code: str) -> str:
    """The text of one code, `FQ301` or `301`. FedqError FQ101 if there is none."""
    name = f"FQ{code}" if code.isdigit() else code.upper()
    if name not in EXPLAINED:
        raise FedqError(
            "FQ101", f"there is no error `{code}`", where=f"fedq explain {code}", hint="fedq explain lists them"
        )
    found, exit_ = EXPLAINED[name], FedqError(name, "").exit_code
    cause, remedy = fill(found.cause, 80), fill(found.remedy, 80)
    files = " (3 for a value in a file)" if name.startswith("FQ1") else ""
    return f"""{name}: {CODES[name]}

{cause}

{remedy}

  {found.command}

Exit status {exit_}{files}."""
