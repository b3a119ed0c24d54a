package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/nearpath/nearpath/test/netlab"
)

// InstallEnv names the variable that, when not empty, lets Start install missing Debian packages (as root).
const InstallEnv = "NEARPATH_INSTALL"

// A requirement is a file that the machine has to have, and the Debian package it is in.
type requirement struct {
	path   string // absolute, or the name of a program
	debian string
}

var requirements = []requirement{
	{path: "etcd", debian: "etcd-server"},
	{path: "busybox", debian: "busybox-static"},
	{path: "gcc", debian: "gcc"},
	{path: "pkg-config", debian: "pkg-config"},
	{path: "/usr/include/seccomp.h", debian: "libseccomp-dev"},
	{path: "/usr/include/stdlib.h", debian: "libc6-dev"},
}

// preparePackages checks that the machine has what the harness does not build itself, and says how to get it.
func preparePackages(ctx context.Context) error {
	if missing := netlab.Missing(); len(missing) > 0 {
		return fmt.Errorf("missing programs: %s", strings.Join(missing, "; "))
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	install := append([]string{"apt-get", "install", "-qy", "--no-install-recommends"}, missing...)
	if _, err := exec.LookPath("apt-get"); err != nil || os.Getenv(InstallEnv) == "" {
		return fmt.Errorf("missing Debian packages: run %q as root (or set %s=1)", strings.Join(install, " "), InstallEnv)
	}
	if err := netlab.RequireRoot(); err != nil {
		return err
	}
	err := runQuietly(exec.CommandContext(ctx, "apt-get", "update", "-q"))
	cmd := exec.CommandContext(ctx, install[0], install[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return errors.Join(err, runQuietly(cmd))
}

func missingPackages() []string {
	var missing []string
	for _, r := range requirements {
		if !r.present() {
			missing = append(missing, r.debian)
		}
	}
	return missing
}

func (r requirement) present() bool {
	if strings.HasPrefix(r.path, "/") {
		_, err := os.Stat(r.path)
		return err == nil
	}
	_, err := exec.LookPath(r.path)
	return err == nil
}
