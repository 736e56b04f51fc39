"""Whole guests in lockstep: the translator and the interpreter must agree on every instruction."""

import os

LOCKSTEP = ("--engine", "lockstep", "--cpus", "1")


def finish(vm):
    """Ends the guest; what the report of a difference would say is the complaint."""
    vm.send("poweroff -f\n")
    assert vm.status(300) == 0, vm.errors.text


def test_busybox(busybox, took):
    with busybox(*LOCKSTEP) as vm:
        vm.expect(r"fh: ready: \S+, 1 CPUs", 300)
        took("ready")
        assert vm.shell("echo $((6 * 7))", 60) == "42\n"
        finish(vm)


if os.environ.get("FREEHOLD_TEST_LONG"):  # minutes
    def test_debian(debian, took):
        with debian(*LOCKSTEP) as vm:
            vm.expect(r"root@freehold:~# ", 1500)
            took("logged in")
            assert vm.shell("echo $((6 * 7))", 60) == "42\n"
            finish(vm)
