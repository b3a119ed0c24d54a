package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// NetNSCookie returns the cookie of the calling thread's network namespace, as the programs see it. Before Linux 5.14,
// where no system call tells it, that takes a program for the moment, and some milliseconds.
func NetNSCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		cookie, err = cookieByProgram()
	}
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return cookie, nil
}

// cookieByProgram opens a socket under a program that writes the cookie next to it.
func cookieByProgram() (cookie uint64, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return 0, fmt.Errorf("lift the locked-memory limit: %w", err)
	}
	storage, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.SkStorage, KeySize: 4, ValueSize: 8, Flags: unix.BPF_F_NO_PREALLOC,
		Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Value: &btf.Int{Name: "u64", Size: 8},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	program, err := ebpf.NewProgram(cookieProgram(storage))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	cgroup, err := ownCgroup()
	if err != nil {
		return 0, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInetSockCreate, Program: program})
	if err != nil {
		return 0, fmt.Errorf("attach to %s: %w", cgroup, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return cookie, storage.Lookup(uint32(fd), &cookie)
}

// cookieProgram lets every socket be made and writes the cookie of its network namespace into storage.
func cookieProgram(storage *ebpf.Map) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "netns_cookie", Type: ebpf.CGroupSock, AttachType: ebpf.AttachCGroupInetSockCreate, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.FnGetNetnsCookie.Call(),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.LoadMapPtr(asm.R1, storage.FD()),
			asm.Mov.Reg(asm.R2, asm.R6),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, unix.BPF_LOCAL_STORAGE_GET_F_CREATE),
			asm.FnSkStorageGet.Call(),
			asm.JEq.Imm(asm.R0, 0, "allow"),
			asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"),
			asm.Return(),
		},
	}
}

// ownCgroup is the directory of this process's cgroup in the cgroup2 hierarchy (cgroups(7), mountinfo in proc(5)).
func ownCgroup() (string, error) {
	var own string
	err := eachLine("/proc/self/cgroup", func(line string) bool {
		path, ok := strings.CutPrefix(line, "0::")
		own = path
		return ok
	})
	if err != nil {
		return "", err
	}
	var dir string
	err = eachLine("/proc/self/mountinfo", func(line string) bool {
		mount, fs, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !strings.HasPrefix(fs, "cgroup2 ") || len(fields) < 5 {
			return false
		}
		below, err := filepath.Rel(fields[3], own)
		if err != nil || strings.HasPrefix(below, "..") {
			return false
		}
		dir = filepath.Join(fields[4], below)
		return true
	})
	if err == nil && dir == "" {
		err = errors.New("this process has no cgroup2 directory")
	}
	return dir, err
}

// eachLine calls f for the lines of a file until it says that it has what it wants.
func eachLine(path string, f func(string) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() && !f(lines.Text()) {
	}
	return lines.Err()
}
