// Numbers and words as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** 12,345 */
export const count = (number) => whole.format(number);

/** 12,345, and 1.2 */
export const rate = (number) => (number < 10 ? short : whole).format(number);

/** 37 % */
export const share = (number) => `${whole.format(number * 100)} %`;

/** 1.5 MiB */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = Math.min(units.length - 1, number > 0 ? Math.floor(Math.log2(number) / 10) : 0);
  return `${short.format(number / 1024 ** unit)} ${units[unit]}`;
}

/** 0.3 ms, 12 ms, 1.2 s, 5 min, 3 h 12 min, 4 d 2 h */
export function duration(seconds) {
  if (seconds < 1) return `${rate(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? short.format(seconds) : whole.format(Math.floor(seconds))} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (hours < 1) return `${minutes} min`;
  return days < 1 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
}

/** "timed out" of "TimedOut", "too slow" of "too-slow" */
export const word = (text) => text.replace(/([a-z])([A-Z])/g, "$1 $2").replaceAll("-", " ").toLowerCase();

/** "1 connection", "2 connections" */
export const several = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
