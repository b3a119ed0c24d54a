package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/test/vm/plan"
)

// programs come from this machine, with their libraries: test/netlab uses options that busybox does not have. Busybox's
// shell would take its own umount, whatever PATH says.
var programs = []string{"sh", "nsenter", "unshare", "mount", "umount"}

// ownDir has nearpath's programs in a guest.
const ownDir = "/usr/local/nearpath"

// A rootFS is what the initramfs of one guest is made of.
type rootFS struct {
	made
	kernel installed
	run    string            // expression of tests to run; "": all
	only   map[string]string // the same for one package, by its directory
	extra  []string          // arguments of every test binary
}

// write makes the initramfs.
func (r rootFS) write(ctx context.Context, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	a := newArchive(out)
	p := plan.Plan{}
	err = errors.Join(r.addSystem(ctx, a), r.addModules(a, &p), r.addTests(a, &p))
	if err != nil {
		return err
	}
	script, err := json.Marshal(p)
	if err != nil {
		return err
	}
	a.file(plan.File, 0o644, script)
	return errors.Join(a.close(), out.Close())
}

// addSystem adds init, the programs and the few files that programs expect.
func (r rootFS) addSystem(ctx context.Context, a *archive) error {
	if err := copyFile(a, r.init, "/init"); err != nil {
		return err
	}
	// The kernel opens the console before init mounts anything.
	a.char("/dev/console", 5, 1)
	for name, content := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\n",
		"/etc/group":         "root:x:0:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/hostname":      "guest\n",
		"/etc/resolv.conf":   "",
		"/etc/nsswitch.conf": "hosts: files dns\n",
		"/etc/os-release":    "ID=nearpath-guest\n",
	} {
		a.file(name, 0o644, []byte(content))
	}
	for _, dir := range []string{"/root", "/opt/cni/bin", "/etc/cni/net.d"} {
		a.dir(dir)
	}
	for _, file := range r.programs {
		if err := copyFile(a, file, path.Join(ownDir, filepath.Base(file))); err != nil {
			return err
		}
	}
	for _, name := range programs {
		if err := addProgram(a, name); err != nil {
			return err
		}
	}
	return addBusybox(ctx, a)
}

func addBusybox(ctx context.Context, a *archive) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(a, busybox, "/bin/busybox"); err != nil {
		return err
	}
	applets, err := output(exec.CommandContext(ctx, busybox, "--list"))
	if err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(applets) {
		if applet != "busybox" && !slices.Contains(programs, applet) {
			a.symlink("/bin/"+applet, "busybox")
		}
	}
	return nil
}

// libraryDirs are where Debian's dynamic linker looks.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/lib"}

// addProgram adds a dynamically linked program and the libraries that it needs.
func addProgram(a *archive, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := copyFile(a, file, "/usr/bin/"+name); err != nil {
		return err
	}
	return addLibraries(a, file)
}

func addLibraries(a *archive, file string) error {
	program, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer func() { _ = program.Close() }()
	needs, err := program.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if interp := program.Section(".interp"); interp != nil {
		name, err := interp.Data()
		if err != nil {
			return err
		}
		linker := string(bytes.TrimRight(name, "\x00"))
		if err := addLibrary(a, linker, linker); err != nil {
			return err
		}
	}
	for _, library := range needs {
		from, err := findLibrary(library)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := addLibrary(a, from, "/lib/x86_64-linux-gnu/"+library); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		if file := filepath.Join(dir, name); isFile(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of %v", name, libraryDirs)
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// addLibrary adds a library once, and what it needs itself.
func addLibrary(a *archive, from, to string) error {
	if a.made[to] {
		return nil
	}
	a.made[to] = true
	if err := copyFile(a, from, to); err != nil {
		return err
	}
	return addLibraries(a, from)
}

func (r rootFS) addModules(a *archive, p *plan.Plan) error {
	index, err := indexModules(r.kernel.modules)
	if err != nil {
		return err
	}
	files, err := index.resolve(modules)
	if err != nil {
		return fmt.Errorf("%s: %w", r.kernel.build, err)
	}
	for _, file := range files {
		to := "/lib/modules/" + filepath.Base(file)
		if err := copyFile(a, file, to); err != nil {
			return err
		}
		p.Modules = append(p.Modules, plan.Module{Name: moduleName(file), Path: to})
	}
	return nil
}

// addTests adds test binaries where their sources are, with their testdata: a test runs in its package's directory.
func (r rootFS) addTests(a *archive, p *plan.Plan) error {
	for _, t := range r.tests {
		dir := path.Join("/src", t.dir)
		binary := path.Join(dir, path.Base(t.dir)+".test")
		if err := copyFile(a, t.binary, binary); err != nil {
			return err
		}
		data := filepath.Join(r.root, t.dir, "testdata")
		if err := copyTree(a, data, path.Join(dir, "testdata")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		argv := []string{binary, "-test.v", "-test.count=1", fmt.Sprintf("-test.timeout=%ds", t.seconds)}
		if skip := t.skip(r.kernel.name); skip != "" {
			argv = append(argv, "-test.skip="+skip)
		}
		if run := cmp.Or(r.run, r.only[t.dir]); run != "" {
			argv = append(argv, "-test.run="+run)
		}
		// The test's own timeout comes first: it prints where every goroutine is.
		p.Runs = append(p.Runs, plan.Run{
			Name: t.dir, Dir: dir, Argv: append(argv, r.extra...), Seconds: t.seconds + 10, Env: []string{"NEARPATH_BIN=" + ownDir},
		})
	}
	return nil
}

// copyFile adds a file of this machine, executable if it is here.
func copyFile(a *archive, from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	a.file(to, int(info.Mode().Perm())|0o444, content)
	return nil
}

func copyTree(a *archive, from, to string) error {
	return filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		return copyFile(a, file, path.Join(to, filepath.ToSlash(relative)))
	})
}
