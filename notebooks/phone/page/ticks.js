// The beat of the test picture, in a worker: the timers of a page behind another tab come once a second, a worker's as
// often as before (Chromium 156: 1 picture a second against 30).
onmessage = ({ data: milliseconds }) => setInterval(() => postMessage(null), milliseconds);
