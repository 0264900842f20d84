// @ts-check
// Requests to the API of the site.

/** An answer of the API that is not a success, or no answer at all (status 0). */
export class ApiError extends Error {
  /** Whether the server may have done all the same what it was asked to. */
  isUncertain = false;

  /** @param {number} status @param {string} message @param {any} [body] */
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

const PATIENCE_MS = 10_000;

/** A signal that ends a request which the server does not answer in a time that people wait. */
export const giveUp = () => AbortSignal.timeout(PATIENCE_MS);

/** The address of the dashboard: the site may live below a prefix.
 * @returns {string} */
export function root() {
  return document.querySelector('meta[name="root"]')?.getAttribute("content") ?? "/";
}

/** @param {string} path Below the root, such as `api/runs/7`. */
export const address = (path) => root() + path;

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function getJson(path, signal) {
  const response = await ask(path, { signal });
  return response.json();
}

/** @param {string} path @param {AbortSignal} [signal] */
export function get(path, signal) {
  return ask(path, { signal });
}

/** @param {string} path @param {object | string} body Text is sent as it is: it is JSON already.
 * @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function postJson(path, body, signal) {
  const response = await ask(path, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", "X-CSRFToken": token() },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return response.json();
}

/** @param {string} path @param {RequestInit} options */
async function ask(path, options) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(address(path), {
      credentials: "same-origin",
      cache: "no-store",
      ...options,
      headers: { Accept: "application/json", ...options.headers },
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    const unanswered = new ApiError(0, "The server did not answer.");
    unanswered.isUncertain = error instanceof DOMException && error.name === "TimeoutError";
    throw unanswered;
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** @param {Response} response */
async function failure(response) {
  const body = await response.json().catch(() => null);
  const said = body?.errors?.map((/** @type {{message: string}} */ e) => e.message).join(" ");
  return new ApiError(response.status, said || `The server answered ${response.status}.`, body);
}

function token() {
  const cookie = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/);
  const meta = document.querySelector('meta[name="csrf-token"]')?.getAttribute("content");
  // The cookie is newer than the page if somebody signed in again in another tab.
  return cookie?.[1] ?? meta ?? "";
}
