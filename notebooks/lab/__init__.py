"""The laboratory: what the lessons look at a call with, and what keeps their cells in order.

What one sees                                      The layers, taken apart
live      both pictures, moving, in a cell         sdp       each line of an SDP, explained
draw      diagrams of a run, layers, tables        edits     descriptions that were changed, or a stranger's
slider    a run one can go through                 ice       candidates, pairs, priorities
knows     what each peer knows, and its states     tries     ICE tried in other ways
code      listings, Python beside JavaScript       wire      a tap: every datagram that passes
javascript  the browser's side of them             packets   what the bytes of a datagram say
                                                   nat       toy NATs, and machines behind them
                                                   rtp       RTP and RTCP in the clear, one packet's way
                                                   sctp      SCTP in the clear: a tap under the tap
What one does                                      relay     a real TURN server, and what it costs
check     questions with checked answers           turn      TURN spoken by hand
answers   what those checks take as right          bare      RTCPeerConnections without a Peer around them
bench     a section's state, a steady clock        recorded  what the libraries here cannot do
faults    loss, delay, changed messages            private   the names that aiortc keeps to itself
again     cells that take a step, run twice
badnetwork  calls over a bad network, and what they show
channels  data channels through loss, a file, labels, endings
lossy     loopback's window over a bad network: a program
clinic    calls with a fault, and the grading of a diagnosis
clinic_faults  the faults, and what each one does
clinic_evidence  what a learner can see of a call
clinic_solver  a program that diagnoses from that alone
sockets   signalling over WebSockets, the other end in a process of its own
rooms     rooms of socket.io; one that two servers share through Redis
room_server  the socket.io server of the tutorials, also a program
ringing   call control, from the phone's table, driven and drawn
changes   a running call that changes: tracks, directions, one lost packet among two
crowd     one camera for several viewers, a mesh, what they cost
forward   a server that passes packets on, undecoded
janus     a real one, in a network of its own
page      a page in a real browser, in a call with a cell: the polite side of glare
"""

import loopback  # noqa: F401  first: it imports cv2 before aiortc, which has to be so in every process  # isort: skip

from .bench import call_after, steady
from .check import check, expect, outcome, predict, quiz
from .code import beside, listing
from .draw import sequence, timeline, you_are_here
from .faults import Cut, Delay, Loss, Reorder, change, delay, double, drop, faulty, hold
from .ice import candidate_table, pair_priority, pair_table, priority, split_priority
from .knows import strip
from .live import Painted, new_picture, picture, watch
from .packets import decode, handshake, hexdump
from .sdp import Explanation, compare, edit, explain, sdp_table
from .wire import Tap

__all__ = [
    "Cut",
    "Delay",
    "Explanation",
    "Loss",
    "Painted",
    "Reorder",
    "Tap",
    "beside",
    "call_after",
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
    "new_picture",
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
    "steady",
    "strip",
    "timeline",
    "watch",
    "you_are_here",
]
