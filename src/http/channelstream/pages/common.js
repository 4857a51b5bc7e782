// The JSON at `path`; who is not signed in any more is sent to do so.
export async function load(path) {
  const response = await fetch(path, { redirect: "manual", cache: "no-store" });
  if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) {
    location.assign("admin/sign_in");
    throw new Error("not signed in any more");
  }
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}
