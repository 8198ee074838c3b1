"""What is around a call: people, sound, the screen, servers, recording.

control   who calls whom, as a table; a room        recorder  writes what is seen and heard to a file
sound     sources, a track, a meter, adding it      servers   STUN and TURN, from what a user gives
screen    the screen as a source
"""

import loopback  # noqa: F401  first: it imports cv2 before aiortc, which has to be so in every process
