"""`podwire lab run`: walk a lab of the documentation."""

from __future__ import annotations

from pathlib import Path

import click

import podwire

LABS = Path(podwire.__file__).resolve().parent.parent / "docs" / "labs"


@click.command()
@click.argument("name", default="")
@click.option("--transcript", type=click.Path(dir_okay=False), help="Write what the terminal showed to this file.")
def run(name: str, transcript: str | None) -> None:
    """Walk a lab: its commands are typed into a shell, and what one should see is checked. Without NAME: list them.

    \b
    podwire lab run
    podwire lab run pod-network
    podwire lab run pod-network --transcript seen.md
    """
    from podwire.lab.labfile import LabFileError, parse
    from podwire.lab.walk import WalkError, transcribed, walk

    if not name:
        click.echo("\n".join(path.stem for path in sorted(LABS.glob("*.md"))))
        return
    path = Path(name) if name.endswith(".md") else LABS / f"{name}.md"
    try:
        lab = parse(path.read_text())
        walked = walk(
            lab,
            before=lambda step: click.echo(click.style(f"\n## {step.title}", bold=True)),
            after=lambda walked: click.echo(f"  done in {walked.seconds:.1f} s"),
            show=lambda text: click.echo(text, nl=False),
        )
        if transcript:
            Path(transcript).write_text(transcribed(lab, walked))
    except FileNotFoundError:
        raise click.ClickException(f"there is no lab {name}; `podwire lab run` lists them") from None
    except (LabFileError, WalkError) as error:
        raise click.ClickException(str(error)) from error
