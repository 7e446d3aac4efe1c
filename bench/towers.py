"""What the towers cost: one query on one thread, queries in batches, entities, in float32 and in the fast precision.

Queries are the shipped catalogue's judged ones and its titles' first words; entities are its products, with a given
vector in place of the encoded text, since a transformer over entity texts is a cost of its own. Both precisions take
turns in one run; figures are medians over repeats. The last line is one JSON object.

    python -m bench.towers
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.arguments import COUNT, THREADS, check, parser_of
from retrieval import catalogue
from retrieval.towers.checkpoint import write_checkpoint
from retrieval.towers.encoder import Precision
from retrieval.towers.entity import EntityTower
from retrieval.towers.entity_model import EntityModelSettings
from retrieval.towers.entity_parts import EntityParts, EntityTowerSettings, make_model
from retrieval.towers.features import EncodedText, FeatureSettings, hash_texts, vector_column
from retrieval.towers.pretrained import load_default
from retrieval.towers.projection import fit_projection
from retrieval.towers.query import QueryTower
from retrieval.towers.tokenise import Tokenisation
from retrieval.towers.vocabulary import build_vocabulary
from retrieval.types import F32

D, GIVEN = 256, "text_embedding"
TEXTS = ("title", "description", "brand", "color", "product_type")
REPEATS = 5
TITLE_WORDS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of("towers", __doc__)
    parser.add_argument("--checkpoint", type=Path, help="a trained one; else the default encoder, untrained network")
    parser.add_argument("--threads", type=int, default=2, help="of batches and entities; a lone query always has one")
    parser.add_argument("--batch-queries", type=int, default=2_000)
    parser.add_argument("--entities", type=int, default=19_406)
    args = parser.parse_args(arguments)
    check(args, threads=THREADS, batch_queries=COUNT, entities=COUNT)
    judged = sorted(set(catalogue.judgments().column("query").to_pylist()))
    products = catalogue.products().slice(0, args.entities)
    titles = [" ".join(title.split()[:TITLE_WORDS]) for title in products.column("title").to_pylist()]
    many = [title for title in titles if title][: args.batch_queries]
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint or _untrained(Path(scratch) / "tower", products, judged + many)
        figures = _queries(checkpoint, judged, many, args.threads)
        figures["entities_per_s"] = _entities(checkpoint, products, args.threads)
    print(f"{'':10} single p50 ms   p95 ms   min ms   batch queries/s ({args.threads} threads)")
    for name in ("float32", "auto"):
        precision, p50, p95, least, rate = figures[name].values()
        print(f"{precision:10} {p50:13.2f} {p95:8.2f} {least:8.2f} {rate:17.0f}")
    print(f"cosine of the two: least {figures['cosine_min']:.5f}, median {figures['cosine_median']:.5f}")
    print(f"entities per second, {args.threads} threads: {figures['entities_per_s']:.0f}")
    print(json.dumps(figures))


def _queries(checkpoint: Path, lone: list[str], many: list[str], threads: int) -> dict[str, Any]:
    kinds = (Precision.FLOAT32, Precision.AUTO)
    single = {kind: QueryTower.load(checkpoint, threads=1, precision=kind) for kind in kinds}
    batched = {kind: QueryTower.load(checkpoint, threads=threads, precision=kind) for kind in kinds}
    times: dict[Precision, list[float]] = {kind: [] for kind in kinds}
    rates: dict[Precision, list[float]] = {kind: [] for kind in kinds}
    vectors: dict[Precision, F32] = {}
    for kind in kinds:
        single[kind].encode(lone[:8])
    for _ in range(REPEATS):
        for text in lone:
            for kind in kinds:
                times[kind].append(1e3 * _seconds(lambda kind=kind, text=text: single[kind].encode([text])))  # type: ignore[misc]
        for kind in kinds:
            begun = time.perf_counter()
            vectors[kind] = batched[kind].encode(many)
            rates[kind].append(len(many) / (time.perf_counter() - begun))
    cosines = (vectors[Precision.FLOAT32] * vectors[Precision.AUTO]).sum(axis=1)
    figures: dict[str, Any] = {
        str(kind): {
            "precision": str(single[kind].precision),
            "p50_ms": round(float(np.median(times[kind])), 3),
            "p95_ms": round(float(np.percentile(times[kind], 95)), 3),
            "min_ms": round(min(times[kind]), 3),
            "batch_per_s": round(float(np.median(rates[kind])), 1),
        }
        for kind in kinds
    }
    figures["cosine_min"] = round(float(cosines.min()), 6)
    figures["cosine_median"] = round(float(np.median(cosines)), 6)
    return figures


def _entities(checkpoint: Path, products: pa.Table, threads: int) -> float:
    tower = EntityTower.load(checkpoint, threads=threads)
    given = np.random.default_rng(0).standard_normal((products.num_rows, 384)).astype(np.float32)
    table = products.append_column(GIVEN, vector_column(given, present=np.ones(len(given), bool)))
    tower.encode(table.slice(0, 2_048))
    return round(float(np.median([len(given) / _seconds(lambda: tower.encode(table)) for _ in range(REPEATS)])), 1)


def _untrained(out: Path, products: pa.Table, texts: list[str]) -> Path:
    encoder = load_default(max_tokens=64)
    features = FeatureSettings(texts=TEXTS, vectors={GIVEN: encoder.hidden}, max_characters=200)
    settings = EntityTowerSettings(
        d=D,
        features=features,
        model=EntityModelSettings(token_dim=64, hidden=256),
        encoded=EncodedText(feature=GIVEN, columns=("title",)),
    )
    hashed = hash_texts(products, features)
    vocabularies = {
        cut: build_vocabulary(
            [hashed[cut].values],
            size=settings.model.vocabulary_size,
            min_count=settings.model.vocabulary_min_count,
            oov_ids=settings.model.oov_ids,
        )
        for cut in Tokenisation
    }
    parts = EntityParts(settings=settings, vocabularies=vocabularies, model=make_model(settings, vocabularies))
    write_checkpoint(
        out,
        encoder=encoder,
        projection=fit_projection(encoder.encode(texts[:1_024]), D),
        text_columns=("title",),
        provenance={"encoder": "default", "entity network": "untrained"},
        more=parts.to_parts(),
    )
    return out


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
