"""Calls the running program in every way that docs/openapi.json allows, and in many that it does not.

    python tests/api/check.py PROGRAM

Each answer has to be one that the description has for that call, with the headers and the body that it has there; what
the description forbids has to be refused; nothing may be answered 5xx. SEED=N draws other calls.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

# Enough that each call meets every parameter it has, in a quarter of a minute.
EXAMPLES = 30

# That what the description allows is taken cannot hold for each call: it does not know the names of
# destinations, which batches have ended, nor that a body has to be compressed as its header says.
NOT_CHECKED = "positive_data_acceptance"


def address(program: subprocess.Popen) -> str:
    for line in program.stderr:
        if "the data port listens" in line:
            return line.split("address=")[1].split()[0]
    raise SystemExit("api: the program ended before it listened")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="seriatim-api-") as folder:
        env = {
            "SERIATIM_INGRESS__HTTP": "127.0.0.1:0",
            "SERIATIM_ADMIN__LISTEN": "127.0.0.1:0",
            "SERIATIM_LOG__EMBEDDED": str(pathlib.Path(folder, "data")),
            "SERIATIM_WORK__BUILTIN": "echo",
        }
        program = subprocess.Popen(
            [str(pathlib.Path(sys.argv[1]).resolve()), "run"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True
        )
        try:
            url = f"http://{address(program)}/openapi.json"
            # Read on, so that the program never waits for somebody to read what it says.
            with subprocess.Popen(["cat"], stdin=program.stderr, stdout=subprocess.DEVNULL):
                schemathesis = pathlib.Path(sys.executable).with_name("schemathesis")
                call = [schemathesis, "run", url, "--seed", os.environ.get("SEED", "1"), "--no-color"]
                call += ["--max-examples", str(EXAMPLES), "--request-timeout", "10", "--exclude-checks", NOT_CHECKED]
                code = subprocess.run(call, cwd=folder).returncode
                if program.poll() is not None:
                    print(f"api: the program ended with {program.returncode}", file=sys.stderr)
                    code = 1
                program.kill()
            return code
        finally:
            program.kill()
            program.wait()


sys.exit(main())
