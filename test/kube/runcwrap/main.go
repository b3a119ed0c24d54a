// Runcwrap runs runc, the one in PATH, without resource limits: it takes them out of the bundle's config.json when a
// container is created, and does nothing when asked to update them.
//
// A node's cgroup2 has no cpu, memory or pids controller where the machine keeps those in version 1, or has not
// enabled them for the node, and runc fails on a limit that it cannot set. containerd 2 has no option to do without.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runcwrap:", err)
		os.Exit(1)
	}
}

// run replaces this process by runc, unless there is nothing to do.
func run(args []string) error {
	switch command(args) {
	case "update":
		return nil
	case "create", "run", "restore":
		if err := stripFile(filepath.Join(bundle(args), "config.json")); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// valued are runc's global options that are followed by a value.
var valued = []string{"--root", "--log", "--log-format", "--rootless", "--criu"}

// command finds runc's command behind the global options.
func command(args []string) string {
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(valued, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			return args[i]
		}
	}
	return ""
}

// bundle finds the directory that config.json is in: by default, the working directory.
func bundle(args []string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--bundle="); ok {
			return value
		}
		if (arg == "--bundle" || arg == "-b") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "."
}

func stripFile(path string) error {
	spec, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	stripped, err := strip(spec)
	if err != nil {
		return fmt.Errorf("strip %s: %w", path, err)
	}
	return os.WriteFile(path, stripped, 0o600)
}

// strip takes everything but the device rules, which need no controller, out of linux.resources of an OCI runtime
// specification. All else keeps its value.
func strip(spec []byte) ([]byte, error) {
	var top, linux, resources map[string]json.RawMessage
	if err := json.Unmarshal(spec, &top); err != nil {
		return nil, err
	}
	if len(top["linux"]) == 0 {
		return spec, nil
	}
	if err := json.Unmarshal(top["linux"], &linux); err != nil {
		return nil, err
	}
	if len(linux["resources"]) == 0 {
		return spec, nil
	}
	if err := json.Unmarshal(linux["resources"], &resources); err != nil {
		return nil, err
	}
	for key := range resources {
		if key != "devices" {
			delete(resources, key)
		}
	}
	var err error
	if linux["resources"], err = json.Marshal(resources); err != nil {
		return nil, err
	}
	if top["linux"], err = json.Marshal(linux); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}
