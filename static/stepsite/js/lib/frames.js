// @ts-check
// When views draw: at most once per frame, and on one shared tick for whatever shows a running time.

const TICK_MS = 200;

/** A function that makes `draw` run in the next frame, once however often it is called.
 * In a hidden tab frames do not come, so a slow timer stands in for them.
 * @param {() => void} draw */
export function onNextFrame(draw) {
  let isWaiting = false;
  const run = () => {
    if (!isWaiting) return;
    isWaiting = false;
    draw();
  };
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    if (document.hidden) setTimeout(run, 1000);
    else requestAnimationFrame(run);
  };
}

/** Calls `tick` five times a second while the tab can be seen and `isNeeded` says so.
 * @param {() => void} tick @param {() => boolean} isNeeded */
export function ticker(tick, isNeeded) {
  setInterval(() => {
    if (!document.hidden && isNeeded()) tick();
  }, TICK_MS);
}
