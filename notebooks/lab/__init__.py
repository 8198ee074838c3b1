"""The laboratory: what the lessons look at a call with.

live    both pictures, moving, in a cell         ice     candidates, pairs, priorities
draw    sequence diagram and time line           wire    every datagram, decoded
knows   what each peer knows, and its states     faults  loss, delay, changed messages
sdp     each line of an SDP, explained           check   questions with checked answers
                                                 code    listings, Python beside JavaScript
"""

import loopback  # noqa: F401  first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

from .check import check, expect, outcome, predict, quiz
from .code import beside, listing
from .draw import sequence, timeline
from .faults import Cut, Delay, Loss, Reorder, change, delay, double, drop, faulty, hold
from .ice import candidate_table, pair_priority, pair_table, priority, split_priority
from .knows import strip
from .live import picture, watch
from .sdp import Explanation, compare, edit, explain, sdp_table
from .wire import Tap, decode, handshake, hexdump

__all__ = [
    "Cut",
    "Delay",
    "Explanation",
    "Loss",
    "Reorder",
    "Tap",
    "beside",
    "candidate_table",
    "change",
    "check",
    "compare",
    "decode",
    "delay",
    "double",
    "drop",
    "edit",
    "expect",
    "explain",
    "faulty",
    "handshake",
    "hexdump",
    "hold",
    "listing",
    "outcome",
    "pair_priority",
    "pair_table",
    "picture",
    "predict",
    "priority",
    "quiz",
    "sdp_table",
    "sequence",
    "split_priority",
    "strip",
    "timeline",
    "watch",
]
