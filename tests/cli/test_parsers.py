"""Every parser of the command line: help for every option, one way to name things, and nothing heavy loaded."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from speechmtp.cli.main import VERBS, build_parser, main
from speechmtp.evaluation.settings import MAX_NEW_TOKENS, PROMPT_TOKENS


def walk(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser by the words of its verb."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                yield from walk(sub, f"{name} {word}".strip())


PARSERS = dict(walk(build_parser(VERBS)))
LEAVES = {
    name: parser
    for name, parser in PARSERS.items()
    if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
}
DECODING = ("compare", "tune", "decode", "heads report", "transcribe", "demo")
TRAINING = ("train asr", "train heads", "train ctc", "train lm")


def option(verb: str, name: str) -> argparse.Action | None:
    """An option of a verb, or a positional argument."""
    actions = LEAVES[verb]._actions
    return next((a for a in actions if name in a.option_strings or (a.dest == name and not a.option_strings)), None)


def test_every_verb_is_walked() -> None:
    assert {name.split()[0] for name in LEAVES} == set(VERBS)
    assert {"heads list", "heads report", "train asr", "train tokenizer", "data validate"} <= set(LEAVES)


@pytest.mark.parametrize("verb", PARSERS)
def test_every_option_has_help(verb: str) -> None:
    without = [action.option_strings or action.dest for action in PARSERS[verb]._actions if not action.help]
    assert not without


@pytest.mark.parametrize("verb", ["compare", "tune", "decode", "heads list", "heads report", "export", "transcribe"])
def test_a_model_is_an_option_whose_default_is_default(verb: str) -> None:
    found = option(verb, "--model")
    assert found is not None and found.default == "default" and not found.required
    assert option(verb, "model") is None, "no positional argument beside it"


@pytest.mark.parametrize("verb", ["train heads", "train ctc"])
def test_a_training_needs_its_model_by_name(verb: str) -> None:
    found = option(verb, "--model")
    assert found is not None and found.required


@pytest.mark.parametrize("verb", [*DECODING, *TRAINING])
def test_the_device_is_auto_unless_one_is_given(verb: str) -> None:
    found = option(verb, "--device")
    assert found is not None and found.default == "auto"


def test_an_option_is_the_same_in_every_verb() -> None:
    """Names, metavars, defaults and kinds of options that several verbs have."""
    shared = ("--heads", "--device", "--threads", "--dtype", "--draft-model", "--prompt-tokens", "--max-new-tokens",
              "--ctc", "--seed", "--root", "--allow-pipes", "--language", "--task", "--drafts")  # fmt: skip
    for name in shared:
        found = {
            (a.metavar, str(a.default), a.type, type(a)) for verb in LEAVES if (a := option(verb, name)) is not None
        }
        assert len(found) == 1, (name, found)
    metavars = {a.metavar for verb in LEAVES if (a := option(verb, "--out")) is not None}
    assert metavars == {"DIR", "FILE"}
    metavars = {a.metavar for verb in LEAVES if (a := option(verb, "data")) is not None}
    assert metavars == {"DATA"}
    assert option("train heads", "--heads") is None and option("train heads", "--family") is not None


@pytest.mark.parametrize("verb", ["compare", "tune", "heads report"])
def test_the_limits_of_a_text_lm_are_told_with_one_default(verb: str) -> None:
    for name, default in (("--prompt-tokens", PROMPT_TOKENS), ("--max-new-tokens", MAX_NEW_TOKENS)):
        found = option(verb, name)
        assert found is not None and found.help is not None and f"(default {default})" in found.help


def test_help_of_every_verb_loads_no_torch_and_is_quick() -> None:
    code = (
        "import sys\n"
        "from speechmtp.cli.main import VERBS, build_parser, main\n"
        "text = build_parser(VERBS).format_help()\n"
        "found = {'torch', 'transformers', 'numpy', 'scipy', 'librosa', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5.0, "about 0.2 s on a quiet machine"


@pytest.mark.parametrize("verb", LEAVES)
def test_help_of_one_verb_takes_little_processor_time(verb: str) -> None:
    code = (
        "import sys, time\n"
        "from speechmtp.cli.main import main\n"
        "try:\n"
        f"    main({[*verb.split(), '--help']!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "transcribe a.wav --threads many",
            "speechmtp transcribe: error: argument --threads: invalid int value: 'many'",
        ),
        ("transcribe a.wav --threads", "speechmtp transcribe: error: argument --threads: expected one argument"),
        ("decode", "speechmtp decode: error: the following arguments are required: DATA, --out"),
        ("sing", "speechmtp: error: argument VERB: invalid choice: 'sing'"),
    ],
)
def test_a_wrong_use_of_options_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    error = capsys.readouterr().err
    prog = message.split(":")[0]
    assert stopped.value.code == 2 and error.startswith(message)
    assert error.endswith(f"; see {prog} --help\n") and error.count("\n") == 1
