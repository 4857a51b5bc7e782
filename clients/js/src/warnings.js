/**
 * Tells developers of something that the application gets no other word of. Never has credentials or payloads.
 * @param {string} text
 * @param {unknown[]} details
 */
export function warn(text, ...details) {
  console.warn(`high-templar: ${text}`, ...details);
}
