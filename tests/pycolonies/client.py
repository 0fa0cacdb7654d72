"""What a user of the Python client does, against a colony whose variables are in the environment.

Prints one line for each thing that was seen to work; any difference is an exception, and so a failed test.
"""

import os
import sys
import threading

from crypto import Crypto
from pycolonies import ColoniesConnectionError
from pycolonies import colonies_client
from pycolonies import func_spec

client, colony, colony_key, _, user_key = colonies_client()
work = sys.argv[1]


def seen(what):
    print("seen:", what, flush=True)


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


# Members.
names = [e["executorname"] for e in client.list_executors(colony, user_key)]
expect("local" in names, f"the executor `local` is missing in {names}")
seen("executors listed")

# Files, by name and by content.
content = bytes(range(256)) * 5000
path = os.path.join(work, "up load.bin")
with open(path, "wb") as file:
    file.write(content)
row = client.upload_file(colony, user_key, filepath=path, label="/python/files")
expect(row["name"] == "up load.bin" and row["size"] == len(content), f"the row differs: {row}")
back = client.download_file(colony, user_key, dst=os.path.join(work, "back"), label="/python/files", filename="up load.bin")
with open(back, "rb") as file:
    expect(file.read() == content, "the bytes differ after the way there and back")
seen("file uploaded and downloaded")

client.upload_data(colony, user_key, filename="note.txt", data=b"first", label="/python/files")
client.upload_data(colony, user_key, filename="note.txt", data=b"second", label="/python/files")
expect(client.download_data(colony, user_key, label="/python/files", filename="note.txt") == b"second", "not the latest revision")
expect({f["name"] for f in client.get_files("/python/files", colony, user_key)} == {"up load.bin", "note.txt"}, "listing differs")
labels = [row["name"] for row in client.get_file_labels(colony, user_key, name="/python")]
expect("/python/files" in labels, f"labels differ: {labels}")
seen("revisions and labels")

snapshot = client.create_snapshot(colony, "/python/files", "python-snapshot", user_key)
again = client.get_snapshot_by_id(colony, snapshot["snapshotid"], user_key)
expect(len(again["fileids"]) == 2, f"the snapshot differs: {again}")
seen("snapshot")

# An executor written in Python.
crypto = Crypto()
key = crypto.prvkey()
client.add_executor(
    {"executorname": "python-executor", "executorid": crypto.id(key), "colonyname": colony, "executortype": "python-type"}, colony_key
)
client.approve_executor(colony, "python-executor", colony_key)
client.add_function(colony, "python-executor", "add", key)
process = client.submit_func_spec(func_spec("add", [2, 3], colony, "python-type", maxexectime=60), user_key)
finished = []
waiter = threading.Thread(target=lambda: finished.append(client.wait(process, 30, user_key)))
waiter.start()
taken = client.assign(colony, 10, key)
expect(taken.processid == process.processid and taken.spec.args == [2, 3], f"another process was assigned: {taken}")
client.add_log(process.processid, "adding\n", key)
client.add_attribute(process.processid, "NODES", "here", key)
client.close(process.processid, [sum(taken.spec.args)], key)
waiter.join(30)
expect(finished and finished[0].state == 2 and finished[0].output == [5], f"waiting gave {finished}")
log = client.get_process_log(colony, process.processid, 100, 0, user_key)
expect([line["message"] for line in log] == ["adding\n"], f"the log differs: {log}")
seen("an executor in Python took a process, logged, and closed it; the waiter heard by websocket")

process = client.submit_func_spec(func_spec("add", [1], colony, "python-type", maxexectime=60), user_key)
client.assign(colony, 10, key)
client.fail(process.processid, ["one is not enough"], key)
process = client.get_process(process.processid, user_key)
expect(process.state == 3 and process.errors == ["one is not enough"], f"the failure differs: {process}")
seen("a failed process")

# A job for the executor of the local colony.
spec = func_spec("execute", [], colony, "container-executor", maxexectime=60, kwargs={"cmd": "echo from python; echo $COLONIES_PROCESS_ID", "docker-image": "any"})
spec.conditions.nodes = 1
spec.conditions.processespernode = 1
spec.conditions.cpu = "100m"
spec.conditions.mem = "10Mi"
spec.conditions.walltime = 60
process = client.submit_func_spec(spec, user_key)
process = client.wait(process, 30, user_key)
expect(process.state == 2, f"the job ended in state {process.state}: {process.errors}")
text = "".join(line["message"] for line in client.get_process_log(colony, process.processid, 100, 0, user_key))
expect("from python\n" in text and process.processid in text, f"the job's log differs: {text!r}")
seen("a job ran on the local executor")

# Refusals are exceptions with the server's words.
try:
    client.get_process("0" * 64, user_key)
except ColoniesConnectionError as error:
    expect("not found" in str(error), f"the refusal differs: {error}")
else:
    raise AssertionError("an unknown process was found")
seen("a refusal")

# What Pollinator itself brought over can be read here, too.
label = "/pollinator/" + sys.argv[2] + "/result"
expect(client.download_data(colony, user_key, label=label, filename="out.txt") == b"from pollinator\n", "a result of a run differs")
seen("a result that a run of Pollinator stored")
