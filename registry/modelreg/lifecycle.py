"""What becomes of a version: marked as failed, approved, labelled, archived, deleted; one record each."""

from __future__ import annotations

from modelreg import changes
from modelreg.care import Care
from modelreg.names import check_text
from modelreg.refs import parse_ref
from modelreg.results import Commit


class Lifecycle(Care):
    """The part of ``Registry`` that changes a version's status and labels."""

    def fail(self, ref: str, *, reason: str, actor: str | None = None, dry_run: bool = False) -> Commit:
        """Mark a version as failed; it can't be promoted any more. Channels stay as they are.

        Raises:
            ConflictError: its status forbids it. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        reason = check_text(reason, "a reason (--reason)")
        return self._change(parsed.name, None, changes.failure(parsed), reason, actor, dry_run)

    def approve(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Note that the actor approves of a version, for gates that ask for it.

        Raises:
            ConflictError: the actor registered it, or it was deleted. NotFoundError: no such version.
        """
        parsed, acting = parse_ref(ref), self._acting(actor)
        return self._change(parsed.name, None, changes.approval(parsed, acting), reason, acting, dry_run)

    def tag(
        self,
        ref: str,
        tag: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Put a free label on a version.

        Raises:
            UsageError: not a label. ConflictError: the version was deleted. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.tagging(parsed, tag), reason, actor, dry_run)

    def untag(
        self,
        ref: str,
        tag: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Take a label off a version.

        Raises:
            NotFoundError: no such version, or it has no such label.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.untagging(parsed, tag), reason, actor, dry_run)

    def archive(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Retire a version: it can't be promoted until ``unarchive``; channels that hold it are emptied.

        Raises:
            ConflictError: it is in production, or its status forbids it. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.archival(parsed), reason, actor, dry_run)

    def unarchive(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Give an archived version its status back.

        Raises:
            ConflictError: it isn't archived. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.unarchival(parsed), reason, actor, dry_run)

    def delete(
        self,
        ref: str,
        *,
        force: bool = False,
        reason: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Delete a version: its files go to ``.registry/trash``, its name is never used again.

        Raises:
            ConflictError: it is in production; or tagged, held by a channel or leased, and not ``force``.
            NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(
            parsed.name,
            None,
            changes.deletion(parsed, force, self._leased(parsed.name)),
            reason,
            actor,
            dry_run,
        )
