"""A SLURM of one node in a folder, for tests: Debian's packages, no systemd, nothing but 127.0.0.1, gone afterwards."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONF = """
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={d}/munge.socket,cred_expire=5
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=50
PartitionName=short Nodes={host} MaxTime=5 State=UP DefMemPerCPU=50
"""
GPUS = "NodeName={host} Name=gpu File=/dev/null\nNodeName={host} Name=gpu File=/dev/zero\n"  # to be counted, not used


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name in (*DAEMONS, "sbatch", "squeue", "scontrol") if not shutil.which(name, path=PATH)]


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Slurm:
    """with Slurm() as slurm: ... slurm.env is what SLURM's commands need."""

    def __enter__(self) -> "Slurm":
        # Not a folder of pytest's: munged refuses a socket below a folder that only its owner may enter.
        self.folder, self.running = Path(tempfile.mkdtemp()), []
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (self.folder / "munge.key").chmod(0o400)
        names = dict(
            d=self.folder, host=socket.gethostname().split(".")[0], user=getpass.getuser(), ports=free_ports(2)
        )
        (self.folder / "slurm.conf").write_text(CONF.format(**names))
        (self.folder / "gres.conf").write_text(GPUS.format(**names))
        self.env = os.environ | {"PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        d = self.folder
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        self.daemon(
            "munged", "--foreground", f"--key-file={d}/munge.key", *(f"--{k}={d}/{v}" for k, v in files.items())
        )
        wait_for(lambda: (d / "munge.socket").exists(), "munged", d)
        self.daemon("slurmctld", "-D", "-c", "-f", f"{d}/slurm.conf")
        self.daemon("slurmd", "-D", "-f", f"{d}/slurm.conf")
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle", "slurm", d)

    def daemon(self, *argv: str) -> None:
        with open(self.folder / f"{argv[0]}.out", "w") as out:
            self.running.append(
                subprocess.Popen(argv, env=self.env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
            )

    def ask(self, *argv: str) -> str:
        """What a command of SLURM prints; nothing if it fails."""
        try:
            found = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:
            return ""
        return found.stdout.strip() if found.returncode == 0 else ""

    def __exit__(self, *_) -> None:
        self.ask(
            "scancel", f"--user={getpass.getuser()}"
        )  # what still runs would outlive its daemons, and wait for them
        end = time.monotonic() + 20
        while self.ask("squeue", "-h", "--me") and time.monotonic() < end:
            time.sleep(0.2)
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(condition, what: str, folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = (
                "".join(p.read_text(errors="replace")[-600:] for p in folder.glob("*.log")) if folder.is_dir() else ""
            )
            raise TimeoutError(f"{what} after {seconds} s\n{logs}")
        time.sleep(0.2)
