"""Training data and development sets of heads by input kind of the model; a new kind is one file and one line below."""

from collections.abc import Mapping

from speechmtp.models.bases.contract import InputKind
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, MakeHeadInput, Note
from speechmtp.training.tasks.head_inputs.features import feature_input
from speechmtp.training.tasks.head_inputs.prompts import prompt_input
from speechmtp.training.tasks.head_inputs.texts import text_input
from speechmtp.training.tasks.head_inputs.utterances import utterance_input
from speechmtp.training.tasks.head_inputs.voices import voice_input

HEAD_INPUTS: Mapping[InputKind, MakeHeadInput] = {
    "features": feature_input,
    "encoder_outputs": utterance_input,
    "prompts": prompt_input,
    "texts": text_input,
    "units": voice_input,
}


def make_head_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Build training data and development set; `note` is called with the number of utterances done and the total."""
    return HEAD_INPUTS[asked.bundle.model.input_kind](asked, note)
