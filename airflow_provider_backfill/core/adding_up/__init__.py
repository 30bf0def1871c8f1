"""
Decide whether the chunks of a plan add up.

Chunks add up if their results, merged as the target merges, equal the result of the whole window.

The rules walk the query tree of a SELECT from its tables upwards. For each step, the rules note whether the result is
*whole* (the same in every chunk), in *parts* (the union of the chunks' results is the result of the whole window) or
*grouped* (several chunks may give a row of one group, and the target has to merge these rows). A step with
any other result is refused, with the reason and an alternative. A step that the rules cannot judge is noted as a doubt.

The rules are pure. The caller passes the server's answers as values, and a :class:`.Question` names the facts that are
still missing.
"""
