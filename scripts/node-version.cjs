// Runs before every other script, so that an old Node says what is wrong instead of failing to parse: ES5 only.
var parts = process.versions.node.split(".");
var major = Number(parts[0]);
if (major < 20 || (major === 20 && Number(parts[1]) < 19)) {
  console.error(
    "Trefoil needs Node 20.19 or newer and this is Node " +
      process.versions.node +
      ": install a current one from https://nodejs.org/en/download (or `nvm install 22`, `brew install node`).",
  );
  process.exit(1);
}
