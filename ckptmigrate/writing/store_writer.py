"""The writer for object stores (see `ckptmigrate.writing.writer`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Place, Url
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.store_directories import StoreDirectory
from ckptmigrate.text.commands import command
from ckptmigrate.writing import store_publication, store_swap
from ckptmigrate.writing.journal import Outcome
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.stage import Leftover


@dataclass(frozen=True)
class StoreWriter:
    """A writer for a URL of an object store."""

    url: Url

    def check_free(self, source: Place) -> None:
        store_publication.check_free(self.url, source)

    def create(
        self,
        plans: Mapping[str, Plan],
        trackers: Mapping[str, bytes],
        *,
        link: Link,
        progress: Progress | None,
    ) -> Link:
        return store_publication.create(plans, self.url, trackers, link=link, progress=progress)

    def add(self, plan: Plan, *, link: Link) -> Link:
        return store_publication.add(plan, self.url, link=link)

    def name_latest(self, trackers: Mapping[str, bytes]) -> None:
        try:
            for name, content in trackers.items():
                store_of(self.url).replace(self.url / name, content)
        except StoreError as error:
            error.reason += "; it may have been written"
            error.fix = (
                f"{error.fix}; to see which iteration it names, run "
                f"`{command('inspect', self.url)}`"
            )
            raise

    def locked(self) -> list[Leftover]:
        return store_publication.locked(self.url)

    def is_locked(self) -> bool:
        return directories.is_file(store_publication.lock_of(self.url))

    def discard(self, *, break_lock: bool) -> tuple[Place, str]:
        return self.url, store_publication.discard(self.url, break_lock=break_lock)

    def rewrite(self, plan: Plan) -> None:
        store_swap.rewrite(plan, self.url)

    def recover(self, *, break_lock: bool) -> Outcome:
        return store_swap.recover(self.url, break_lock=break_lock)

    def repoint(self, trackers: Mapping[str, bytes], step: Step) -> None:
        store = store_of(self.url)
        steps = sidecar.load(StoreDirectory(self.url))
        for name in trackers:
            if directories.is_file(self.url / name):
                # Replace the copy that a failed attempt may have left.
                kept = self.url / sidecar.folder(len(steps)) / name
                store.replace(kept, store.read(self.url / name))
        # The migration history first: a step that is then not carried out does no harm, because its
        # hashes do not match.
        store.replace(self.url / sidecar.FILE, sidecar.dump((*steps, step)))
        self.name_latest(trackers)

    def clear_tracker(self) -> list[Place]:
        return []  # an object is replaced at once
