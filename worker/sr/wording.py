"""The sentences of a report, in its language: summary, comments, parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from backlog.model import DEFAULT_MODEL, LABELS, MODELS, OPERATING_POINT
from backlog.outcomes import Flag
from worker.sr.codes import Vocabulary
from worker.sr.findings import Finding, by_score
from worker.sr.inputs import Model, Options


def score_text(percent: str, words: Vocabulary) -> str:
    """Return a score as running text and tables write it: the digits of the measurement, in the report's language.

    Parameters
    ----------
    percent
        What `percent_text` made of the score.
    words
        The report's language; it gives the decimal mark.
    """
    return f"{percent}%".replace(".", words.phrases["decimal"])


def parameters_text(options: Options, model: Model) -> str:
    """Return what the scores were made with, for a reader who has to understand the report later."""
    side = _input_side(model)
    return (
        f"{_points_text(options)}; input={side}x{side}; preprocessing={model.preprocessing}; "
        f"weights sha256={model.weights_sha256}"
    )


def _points_text(options: Options) -> str:
    """Return where findings count as present."""
    chosen = options.operating_points
    if chosen is None:
        return f"operating point={OPERATING_POINT}"
    points = ", ".join(
        f"{label}={chosen.thresholds[label]}" for label in LABELS if label in chosen.thresholds
    )
    return (
        f"operating points: {points}, others={OPERATING_POINT}; operating points file sha256={chosen.sha256}"
    )


def score_list(findings: Iterable[Finding], words: Vocabulary) -> str:
    """Return names with their scores, in one line."""
    return "; ".join(
        f"{words.findings[finding.label].name} {score_text(finding.percent, words)}"
        for finding in by_score(findings)
    )


def narrative_text(findings: Sequence[Finding], model: Model, words: Vocabulary) -> str:
    """Return the summary: what is present, or that nothing is, and what was not evaluated.

    Parameters
    ----------
    findings
        All of an image.
    model
        What scored it: of one with test weights the summary says first that the scores mean nothing.
    words
        The report's language.
    """
    phrases = words.phrases
    known = [finding for finding in findings if finding.value is not None]
    above = [finding for finding in known if finding.present]
    sentences = [] if model.meaningful else [phrases["meaningless"]]
    if above:
        sentences.append(phrases["above"].format(findings=score_list(above, words)))
    else:
        sentences.append(phrases["none_above"].format(count=len(known)))
    missing = [words.findings[finding.label].name for finding in findings if finding.value is None]
    if missing:
        sentences.append(phrases["not_evaluated"].format(findings="; ".join(missing)))
    return " ".join(sentences)


def comment_texts(
    flags: Collection[Flag], model: Model, words: Vocabulary, options: Options, drawn: str
) -> tuple[str, ...]:
    """Return the sentences below the summary: the disclaimer, what is drawn, what was unusual about the image.

    Parameters
    ----------
    flags
        What was unusual.
    model, options
        What scored the image, and how the report was asked for.
    words
        The report's language.
    drawn
        Key of the phrase about what is drawn; empty where nothing is.
    """
    phrases = words.phrases
    comments = (
        [phrases["disclaimer"]] if model.meaningful else [phrases["meaningless"], phrases["disclaimer"]]
    )
    if options.operating_points is not None:
        comments.append(phrases["local_points"])
    if drawn:
        comments.append(phrases[drawn].format(cells=_input_side(model) // 32))
    if flags:
        names = sorted(flag.value for flag in flags)
        # Every flag has its sentence, a test says; but for want of one no report shall be lost.
        sentences = (phrases.get(f"flag.{name}", f"{name}.") for name in names)
        comments.append(phrases["flags"].format(sentences=" ".join(sentences)))
    return tuple(comments)


def _input_side(model: Model) -> int:
    """Return the pixels on a side of what a model sees."""
    return MODELS[model.name if model.name in MODELS else DEFAULT_MODEL].side
