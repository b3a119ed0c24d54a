package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// CacheEnv names the variable for the directory that built programs are kept in; ~/.cache/nearpath by default.
const CacheEnv = "NEARPATH_CACHE"

// A toolSet is a module below test/tools whose programs are built together and cached under a hash of what goes into
// them.
type toolSet struct {
	name   string
	builds []toolBuild
}

// A toolBuild is one run of go build.
type toolBuild struct {
	packages []string
	tags     string
	ldflags  string
	cgo      bool
	// versionOf is the module whose version the programs are to give as their own, the Kubernetes way; empty: none.
	versionOf string
}

// toolSets is everything the cluster needs that Debian does not have in a version of use.
var toolSets = []toolSet{
	{name: "kubernetes", builds: []toolBuild{{packages: []string{"tool"}, ldflags: "-s -w", versionOf: "k8s.io/kubernetes"}}},
	{name: "runtime", builds: []toolBuild{
		{
			packages: []string{
				"github.com/containerd/containerd/v2/cmd/containerd",
				"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"github.com/containerd/containerd/v2/cmd/ctr",
				"github.com/containernetworking/plugins/plugins/main/loopback",
			},
			tags:    "no_btrfs,no_devmapper,no_zfs,no_aufs",
			ldflags: "-s -w",
		},
		// kubelet asks for a seccomp profile for every sandbox, which takes libseccomp; linked statically, runc is
		// the same in every mount namespace.
		{
			packages: []string{"github.com/opencontainers/runc"},
			tags:     "seccomp,netgo,osusergo",
			ldflags:  "-s -w -extldflags -static",
			cgo:      true,
		},
	}},
}

// prepareTools builds what is not in the cache yet and returns the directories that hold the programs. Progress goes
// to log, since a first build takes minutes.
func prepareTools(ctx context.Context, log io.Writer) ([]string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lockFile(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	var dirs []string
	for _, set := range toolSets {
		module := filepath.Join(root, "test", "tools", set.name)
		key, err := set.key(module)
		if err != nil {
			return nil, fmt.Errorf("prepare %s tools: %w", set.name, err)
		}
		dir := filepath.Join(cache, set.name+"-"+key)
		dirs = append(dirs, dir)
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		fmt.Fprintf(log, "building the %s tools into %s, once: this takes minutes\n", set.name, dir)
		if err := set.build(ctx, module, dir); err != nil {
			return nil, fmt.Errorf("build %s tools: %w", set.name, err)
		}
	}
	return dirs, nil
}

func cacheDir() (string, error) {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return filepath.Join(dir, "tools"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find cache: %w", err)
	}
	return filepath.Join(home, ".cache", "nearpath", "tools"), nil
}

// key hashes everything the programs depend on.
func (s toolSet) key(module string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOARCH, s.builds)
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}

// build builds into a directory of another name and renames it, so that dir is complete whenever it is there.
func (s toolSet) build(ctx context.Context, module, dir string) error {
	draft := dir + ".part"
	if err := os.RemoveAll(draft); err != nil {
		return err
	}
	for _, b := range s.builds {
		if err := b.run(ctx, module, draft); err != nil {
			return err
		}
	}
	return os.Rename(draft, dir)
}

func (b toolBuild) run(ctx context.Context, module, dir string) error {
	ldflags, err := b.allLDFlags(ctx, module)
	if err != nil {
		return err
	}
	args := []string{"build", "-C", module, "-trimpath", "-buildvcs=false", "-tags", b.tags, "-ldflags", ldflags, "-o", dir + "/"}
	cmd := exec.CommandContext(ctx, "go", append(args, b.packages...)...)
	cgo := "0"
	if b.cgo {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=")
	return runQuietly(cmd)
}

// allLDFlags adds the version, without which the API and the nodes call themselves "v0.0.0-master".
func (b toolBuild) allLDFlags(ctx context.Context, module string) (string, error) {
	if b.versionOf == "" {
		return b.ldflags, nil
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-C", module, "-m", "-f", "{{.Version}}", b.versionOf).Output()
	if err != nil {
		return "", fmt.Errorf("find version of %s: %w", b.versionOf, err)
	}
	version := strings.TrimSpace(string(out))
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("version %q of %s has not three parts", version, b.versionOf)
	}
	const variable = " -X k8s.io/component-base/version."
	return b.ldflags + variable + "gitVersion=" + version + variable + "gitMajor=" + parts[0] + variable + "gitMinor=" + parts[1], nil
}

// buildOwn builds programs of this repository into dir; the go command leaves those alone that are up to date.
func buildOwn(ctx context.Context, dir string, packages ...string) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	args := []string{"build", "-C", root, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir + "/"}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return runQuietly(cmd)
}

// moduleRoot is the directory of this repository's go.mod; tests run inside the repository.
func moduleRoot(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOMOD")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	gomod := strings.TrimSpace(string(out))
	if filepath.Base(gomod) != "go.mod" {
		return "", fmt.Errorf("find module: not inside the repository")
	}
	return filepath.Dir(gomod), nil
}

// runQuietly runs cmd and returns its output only as part of an error.
func runQuietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// lockFile waits for the lock on the file at path.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
