"""The command line: ``cxr-backlog``.

Nothing heavy is imported here: `--help` answers in a third of a second.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, UsageError
from producer.cli import plan, quarantine, results, run, system, validate, verify
from producer.cli.options import FAILED, UNAVAILABLE, USAGE

_EPILOG = (
    "Exit status: 0 all reported or skipped, 2 usage, 3 finished with quarantined items, 4 interrupted and "
    "resumable, 5 something is unavailable (try again), 1 anything else. For research only: the reports are not for"
    " diagnosis."
)


class _Commands(click.Group):
    """Turns our errors into one line and an exit status; bugs stay loud."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(error, USAGE)
        except ServiceUnavailable as error:
            _fail(error, UNAVAILABLE)
        except (InstanceRejected, BacklogError) as error:
            _fail(error, FAILED)
        except OSError as error:
            if error.filename is None:
                raise  # a closed pipe, say, which click knows about
            _fail(UsageError(f"{error.filename}: {error.strerror}"), FAILED)


def _fail(error: BaseException, status: int) -> NoReturn:
    click.echo(f"cxr-backlog: {error}", err=True)
    sys.exit(status)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-backlog")
def main() -> None:
    """Score a backlog of chest radiographs and put one DICOM SR per image back into its study.

    SOURCE is a zip archive, a folder, or the word 'orthanc'.
    """


for command in (
    plan.plan,
    run.run,
    run.resume,
    run.pause,
    run.cancel,
    run.status,
    quarantine.quarantine,
    verify.verify,
    verify.retract,
    results.export,
    results.summary,
    validate.validate,
    validate.compare,
    verify.audit,
    system.inspect,
    system.doctor,
    system.settings,
    system.demo,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
