"""Training data and development sets of heads, by what a model reads: a kind is one file here and one line below."""

from collections.abc import Mapping

from speechmtp.models.bases.contract import InputKind
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, MakeHeadInput, Note
from speechmtp.training.tasks.head_inputs.features import feature_input
from speechmtp.training.tasks.head_inputs.prompts import prompt_input
from speechmtp.training.tasks.head_inputs.texts import text_input
from speechmtp.training.tasks.head_inputs.utterances import utterance_input

HEAD_INPUTS: Mapping[InputKind, MakeHeadInput] = {
    "features": feature_input,
    "encoder_outputs": utterance_input,
    "prompts": prompt_input,
    "texts": text_input,
}


def make_head_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set; `note` is told how much of the audio is done, and how much there is."""
    return HEAD_INPUTS[asked.bundle.model.input_kind](asked, note)
