"""Find the neighbours of a chunk: the plan's other chunks that have, or may have, written rows to the target."""

from ..clickhouse.attempt import Neighbour
from ..core.plan import Chunk, Plan, WriteMode
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, Run


def neighbours(plan: Plan, run: Run, chunk: Chunk) -> list[Neighbour]:
    """
    Return the plan's other chunks whose rows are, or may be, in the target.

    For direct inserts, also return the chunks that were split during the run.
    """
    direct = plan.write_mode is WriteMode.INSERT
    # A direct insert records no target times. Unless every statement copies a table, the inserted rows may
    # lie anywhere in the plan's window.
    anywhere = (plan.start, plan.end) if direct and any(not s.copies_table for s in plan.statements) else None
    found = []
    for other in select_chunks(plan, run):
        state = run.state(other.id)
        if other.id == chunk.id or not (state.content or state.verified or (direct and state.attempt)):
            continue
        if state.content is None and state.status is not ChunkStatus.RUNNING and not state.touched:
            continue
        rows = max((content.rows for content in state.verified.values()), default=None)
        if state.content is not None:
            rows = state.content.rows if state.content.is_summed else None
        found.append(Neighbour(other, anywhere or run.reach.get(other.id), rows))
    if direct:
        # A failed insert may have left rows behind before its chunk was split.
        planned = plan.planned_parts()
        found += [
            Neighbour(Chunk(name, parts[0].start, parts[-1].end), anywhere, None)
            for name, parts in run.splits.items()
            if name not in planned
        ]
    return found
