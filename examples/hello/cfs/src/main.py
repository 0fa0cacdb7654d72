"""The smallest whole run: says where it is, reads from data, writes a result."""

import os
import socket

project = os.environ["PROJECT_DIR"]

print("hostname:", socket.gethostname())
print("projdir:", project)
print("processid:", os.environ.get("COLONIES_PROCESS_ID"))

with open(os.path.join(project, "data", "hello.txt")) as greeting:
    text = greeting.read()
print(text, end="")

result = os.path.join(project, "result")
os.makedirs(result, exist_ok=True)
with open(os.path.join(result, "result.txt"), "w") as out:
    out.write("Hello, World!\n")
