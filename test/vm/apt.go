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

// aptConfig is read by apt before anything else, and keeps it from the machine's configuration; options on the command line
// come too late for that.
const aptConfig = `Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
`

// apt is Debian's package archive as one release sees it. It shares nothing with the machine's own configuration: not
// its lists, not its pins, not what is installed.
type apt struct {
	options []string
	env     []string
}

// sources are the lines of a sources.list. What Debian has taken off its servers is in its archive, whose Release files are
// as valid as their signatures: their dates are over.
func sources(suite string, archived bool) string {
	host, options := "deb.debian.org", ""
	if archived {
		host, options = "archive.debian.org", " check-valid-until=no"
	}
	return fmt.Sprintf("deb [arch=amd64 signed-by=%[1]s%[4]s] http://%[3]s/debian %[2]s main\n"+
		"deb [arch=amd64 signed-by=%[1]s%[4]s] http://%[3]s/debian-security %[2]s-security main\n", keyring, suite, host, options)
}

func newAPT(cache, suite string, archived bool) (apt, error) {
	dir := filepath.Join(cache, "apt", suite)
	list := filepath.Join(dir, "sources.list")
	config := filepath.Join(dir, "apt.conf")
	status := filepath.Join(dir, "status")
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755),
		os.MkdirAll(filepath.Join(dir, "cache", "archives", "partial"), 0o755),
		os.WriteFile(list, []byte(sources(suite, archived)), 0o644),
		os.WriteFile(config, []byte(aptConfig), 0o644),
		os.WriteFile(status, nil, 0o644),
	)
	return apt{env: append(os.Environ(), "APT_CONFIG="+config), options: []string{
		"-o", "APT::Get::AllowUnauthenticated=false",
		"-o", "Acquire::AllowInsecureRepositories=false",
		"-o", "Dir::Etc::sourcelist=" + list,
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
	cmd.Dir, cmd.Env = dir, a.env
	return output(cmd)
}
