"""How much of a CPU the tasks and the actors of a stage take on Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """CPUs of a task and of an actor, and how many tasks of the first stage there are at a time.

    reading: for each actor, or with `by_cpus` for each CPU of the cluster. With GPUs there is no
    limit. all_limited: whether the other stages have no more tasks than the first one.
    """

    task: float
    actor: float
    reading: float
    by_cpus: bool = False
    all_limited: bool = False

    @classmethod
    def of(cls, alone: bool, grows: bool) -> Shares:
        """The shares of stages.

        alone: there is one stage. grows: the actors are a range without GPUs.
        """
        if alone:
            return ALONE_GROWING if grows else ALONE
        return GROWING if grows else STEADY

    def readers(self, most: int, cpus: int) -> int:
        """Tasks of the first stage at a time. most: actors. cpus: of the cluster."""
        return max(1, int(self.reading * (cpus if self.by_cpus else most)))


# With these shares two tasks have room beside three actors on a node of one CPU. They need that
# room when other nodes are lost and their actors start again on what is left. Ray serves actors
# first, then the stages in their order, and it may leave a part of a node's last CPU unused where
# no further task fits. Without room no task would be finished before all are read, and a killed run
# would have nothing to go on with. The shares also differ, because Ray would otherwise fuse reading
# into the actors, where reading would run between matches instead of beside them.
#
# Without GPUs, reading is a hundredth of the work, and dozens of readers would take the CPUs from
# the actors that start beside them.
STEADY = Shares(task=0.4, actor=0.05, reading=1 / 2, by_cpus=True)
# A stage that is alone needs no room for others. Each of its tasks takes the whole CPU that it
# computes on, and memory with it, and the demand for CPUs makes a cluster grow. A fixed number of
# actors keeps its small shares, because those of a lost node start again on what is left.
ALONE = Shares(task=1.0, actor=STEADY.actor, reading=1)
ALONE_GROWING = Shares(task=1.0, actor=1.0, reading=1)
# A range of actors without GPUs has one for each CPU, and a cluster grows for it. A little is left
# for the other stages, whose tasks are limited, else Ray Data keeps CPUs for them.
GROWING = Shares(task=0.02, actor=0.95, reading=1 / 16, all_limited=True)
