import pytest
import torch

from fairway.coding import artifact
from fairway.coding.session import coding_session
from fairway.errors import BadInput


@pytest.fixture
def opened(artifact_file):
    return artifact.read(artifact_file)


def test_the_same_machine_is_let_in(opened):
    with (
        coding_session(opened, "float") as (_, first),
        coding_session(opened, "float", on_cuda=False) as (_, second),
    ):
        assert first.logits_sha256 == second.logits_sha256
        second.check_description(first.description)
        second.check_description_hash(first.description_sha256[:4])
        second.check_logits(first.logits_sha256[:4])


def test_another_environment_is_named(opened):
    with coding_session(opened, "float", on_cuda=False) as (_, environment):
        elsewhere = environment.description.replace(torch.__version__, "1.0")
        with pytest.raises(BadInput, match=r"another torch 1\.0 \(here 2"):
            environment.check_description(elsewhere)
        with pytest.raises(BadInput, match="another environment"):
            environment.check_description_hash(b"\0\1\2\3")


def test_other_logits_are_refused(opened):
    with coding_session(opened, "float", on_cuda=False) as (_, environment):
        other = bytes(255 - byte for byte in environment.logits_sha256)
        with pytest.raises(BadInput, match="other logits"):
            environment.check_logits(other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the sentence is for machines without a GPU")
def test_a_file_from_a_gpu_says_so(opened):
    session = coding_session(opened, "float", on_cuda=True)
    with pytest.raises(BadInput, match="made on a GPU"), session:
        pass


def test_exact_arithmetic_needs_no_environment(opened):
    with coding_session(opened, "exact") as (_, environment):
        assert environment is None


def test_one_thread_inside_and_as_before_after(opened):
    before = torch.get_num_threads()
    for arithmetic in ("exact", "float"):
        with coding_session(opened, arithmetic):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
