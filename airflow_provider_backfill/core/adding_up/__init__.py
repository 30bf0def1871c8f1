"""
Whether the chunks of a plan add up: their results, merged as the target merges, equal that of the whole window.

The rules walk a SELECT as the server understands it, from its tables upwards, and keep for each step
whether its result is *whole* (the same in every chunk), in *parts* (the chunks' results put together are
the whole's) or *grouped* (several chunks may give a row of one group, which the target has to merge).
A step that fits none of these is refused, with the reason and a way that works.

Pure: what the server says comes in as values, and what has to be asked of it comes out as a :class:`Question`.
"""
