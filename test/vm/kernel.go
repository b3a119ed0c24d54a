package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A kernel is a Linux that Debian builds for virtual machines.
type kernel struct {
	name  string // as in -kernel
	suite string
	meta  string // the package that depends on the newest build
}

var kernels = []kernel{
	{name: "5.10", suite: "bullseye", meta: "linux-image-cloud-amd64"},
	{name: "6.1", suite: "bookworm", meta: "linux-image-cloud-amd64"},
	{name: "6.12", suite: "bookworm", meta: "linux-image-6.12-cloud-amd64"},
}

// An installed kernel is one in the cache.
type installed struct {
	kernel
	build   string // name and version of the package
	vmlinuz string
	modules string // a directory like /lib/modules/<release>
}

// errPackages is followed by what to install.
var errPackages = errors.New("missing Debian packages, run sudo make setup")

// missingPackages names what the lane needs of the machine and does not find.
func missingPackages() error {
	var missing []string
	for _, p := range []struct{ program, debian string }{
		{"qemu-system-x86_64", "qemu-system-x86"},
		{"busybox", "busybox-static"},
		{"apt-get", "apt"},
		{"dpkg", "dpkg"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			missing = append(missing, p.debian)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		missing = append(missing, "debian-archive-keyring")
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", errPackages, strings.Join(missing, " "))
	}
	return nil
}

// install returns the kernel from the cache. When it is not there, or update is set, it gets the newest build from
// Debian's archive.
func (k kernel) install(ctx context.Context, cache string, update bool) (installed, error) {
	dir := filepath.Join(cache, k.name)
	if build, err := os.ReadFile(filepath.Join(dir, "build")); err == nil && !update {
		return k.at(dir, strings.TrimSpace(string(build)))
	}
	work, err := os.MkdirTemp(cache, k.name+".new-")
	if err != nil {
		return installed{}, err
	}
	defer os.RemoveAll(work)
	build, err := k.fetch(ctx, cache, work)
	if err != nil {
		return installed{}, fmt.Errorf("get Debian's kernel %s: %w", k.name, err)
	}
	if err := os.WriteFile(filepath.Join(work, "build"), []byte(build+"\n"), 0o644); err != nil {
		return installed{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return installed{}, err
	}
	if err := os.Rename(work, dir); err != nil {
		return installed{}, err
	}
	return k.at(dir, build)
}

// at finds the parts of an unpacked kernel.
func (k kernel) at(dir, build string) (installed, error) {
	vmlinuz, err := one(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return installed{}, err
	}
	modules, err := one(filepath.Join(dir, "lib", "modules", "*"))
	return installed{kernel: k, build: build, vmlinuz: vmlinuz, modules: modules}, err
}

func one(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d files are called %s", len(found), pattern)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

var imagePackage = regexp.MustCompile(`\nDepends:[^\n]*?(linux-image-[^ ,]+) \(= ([^)]+)\)`)

// lists gets the lists of packages of the kernel's release, from Debian's archive when its servers have them no more.
func (k kernel) lists(ctx context.Context, cache, dir string) (apt, error) {
	var errs []error
	for _, archived := range []bool{false, true} {
		a, err := newAPT(cache, k.suite, archived)
		if err == nil {
			_, err = a.run(ctx, dir, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
		}
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return apt{}, errors.Join(errs...)
}

// fetch unpacks the newest build below dir and returns its name and version.
func (k kernel) fetch(ctx context.Context, cache, dir string) (string, error) {
	apt, err := k.lists(ctx, cache, dir)
	if err != nil {
		return "", err
	}
	about, err := apt.run(ctx, dir, "apt-cache", "show", "--no-all-versions", k.meta)
	if err != nil {
		return "", err
	}
	image := imagePackage.FindStringSubmatch("\n" + about)
	if image == nil {
		return "", fmt.Errorf("package %s of %s does not say which kernel it stands for", k.meta, k.suite)
	}
	if _, err := apt.run(ctx, dir, "apt-get", "-q", "download", image[1]+"="+image[2]); err != nil {
		return "", err
	}
	deb, err := one(filepath.Join(dir, "*.deb"))
	if err != nil {
		return "", err
	}
	if _, err := output(exec.CommandContext(ctx, "dpkg", "-x", deb, dir)); err != nil {
		return "", err
	}
	unpack := exec.CommandContext(ctx, "sh", "-c", "find lib -name '*.ko.xz' -exec busybox unxz {} +")
	unpack.Dir = dir
	_, err = output(unpack)
	return image[1] + " " + image[2], errors.Join(err, os.Remove(deb))
}

// output runs a command and returns what it printed; of one that fails the error says it.
func output(cmd *exec.Cmd) (string, error) {
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(out), err
}
