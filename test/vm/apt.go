package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// keyring has the keys of all releases of Debian.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is Debian's package archive as one release sees it. It shares nothing with the machine's own configuration: not
// its lists, not its pins, not what is installed.
type apt struct {
	options []string
}

func newAPT(cache, suite string) (apt, error) {
	dir := filepath.Join(cache, "apt", suite)
	sources := filepath.Join(dir, "sources.list")
	status := filepath.Join(dir, "status")
	list := fmt.Sprintf("deb [arch=amd64 signed-by=%[1]s] http://deb.debian.org/debian %[2]s main\n"+
		"deb [arch=amd64 signed-by=%[1]s] http://deb.debian.org/debian-security %[2]s-security main\n", keyring, suite)
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755),
		os.MkdirAll(filepath.Join(dir, "cache", "archives", "partial"), 0o755),
		os.WriteFile(sources, []byte(list), 0o644),
		os.WriteFile(status, nil, 0o644),
	)
	return apt{options: []string{
		"-o", "Dir::Etc::sourcelist=" + sources,
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::Etc::preferences=-",
		"-o", "Dir::Etc::preferencesparts=-",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Architecture=amd64",
		"-o", "Acquire::Languages=none",
		// The unprivileged user of apt may not write below the cache.
		"-o", "APT::Sandbox::User=root",
	}}, err
}

// run runs a program of apt in a directory and returns what it printed.
func (a apt) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, append(append([]string{}, a.options...), args...)...)
	cmd.Dir = dir
	return output(cmd)
}
