"""
Decide whether the chunks of a plan add up.

Chunks add up if their results, merged as the target merges, equal the result of the whole window.

The rules walk the query tree of a SELECT from its tables upwards. For each step they note whether the result is *whole*
(the same in every chunk), in *parts* (the union of the chunks' results is the result of the whole window) or *grouped*
(several chunks may give a row of one group, which the target has to merge). Any other step is refused, with the reason
and an alternative.

The rules are pure. The caller passes the server's answers as values, and a :class:`.Question` names the facts that are
still missing.
"""
