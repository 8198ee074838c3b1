"""What is around a call: people, a server, sound, the screen, STUN and TURN, recording.

control   who calls whom, as a table; a room        sound     sources, a track, a meter, adding it
server    the page, a WebSocket for each person     screen    the screen as a source
end       a Python end, on a WebSocket              recorder  writes what is seen and heard to a file
talk      the data channel: chat, files, times      servers   STUN and TURN, from what a user gives
person    call and answer, at a terminal            measure   how fast a call through the server is
"""

import loopback  # noqa: F401  first: it imports cv2 before aiortc, which has to be so in every process
