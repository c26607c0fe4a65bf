// The work itself: put yours here. It may be called twice for one message, even at the same time.

/** Gives `{ body, contentType }`, or nothing where there is no output; throws where it failed for good. */
export async function work(body, headers) {
  const took = Number(headers['x-takes']?.toString() ?? process.env.TAKES ?? 0);
  await new Promise((resolve) => setTimeout(resolve, took));
  return { body: body.toString().toUpperCase(), contentType: headers['content-type']?.toString() ?? 'text/plain' };
}
