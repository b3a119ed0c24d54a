//go:build cluster

package autopath

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/plugins/autopath/autopathtest"
)

// A stock CoreDNS takes our plugins by lines of its plugin.cfg, as their READMEs say: it is generated and built from the
// module's source, with all that CoreDNS ships, and answers a search. The first run downloads the modules that only
// other plugins of CoreDNS need, from the module proxy.
func TestStockCoreDNS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "coredns")
	source := run(t, ".", "go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns")
	project := run(t, ".", "go", "list", "-m", "-f", "{{.Dir}}")
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	writable(t, dir)
	usePlugins(t, filepath.Join(dir, "plugin.cfg"))
	run(t, dir, "go", "mod", "edit", "-require=github.com/nearpath/nearpath@v0.0.0", "-replace=github.com/nearpath/nearpath="+project)
	run(t, dir, "go", "run", "-mod=mod", "directives_generate.go")
	run(t, dir, "go", "build", "-mod=mod", "-o", "coredns", ".")
	plugins := strings.Fields(run(t, dir, "./coredns", "-plugins"))
	for _, name := range []string{"autopath", "nearpath", "upstream"} {
		if got := len(plugins) - len(slices.DeleteFunc(slices.Clone(plugins), func(p string) bool { return strings.TrimPrefix(p, "dns.") == name })); got != 1 {
			t.Errorf("%d plugins are called %s: %q", got, name, plugins)
		}
	}
	answers(t, dir)
}

// writable undoes the protection of the module cache.
func writable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func usePlugins(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const ours = ":github.com/nearpath/nearpath/plugins/"
	for _, line := range []struct{ stock, with string }{
		{"autopath:autopath", "autopath" + ours + "autopath"},
		{"cache:cache", "nearpath" + ours + "nearpath\ncache:cache"},
		{"forward:forward", "upstream" + ours + "upstream\nforward:forward"},
	} {
		stock, with := []byte("\n"+line.stock+"\n"), []byte("\n"+line.with+"\n")
		if bytes.Count(text, stock) != 1 {
			t.Fatalf("plugin.cfg has no line %s", line.stock)
		}
		text = bytes.Replace(text, stock, with, 1)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// answers runs the server with a property that the stock plugin does not have.
func answers(t *testing.T, dir string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := conn.LocalAddr().String()
	conn.Close()
	_, port, _ := net.SplitHostPort(server)
	corefile := fmt.Sprintf(".:%s {\n bind 127.0.0.1\n autopath resolv.conf {\n ndots 5\n }\n hosts {\n 192.0.2.1 www.example.test\n"+
		" }\n template IN ANY cluster.local {\n rcode NXDOMAIN\n }\n upstream . 192.0.2.53\n}\n", port)
	for name, text := range map[string]string{"Corefile": corefile, "resolv.conf": "search shop.svc.cluster.local cluster.local\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "./coredns")
	cmd.Dir = dir
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	autopathtest.Until(t, "www.example.test.", func() string {
		reply, err := dns.Exchange(new(dns.Msg).SetQuestion("www.example.test.shop.svc.cluster.local.", dns.TypeA), server)
		if err != nil || len(reply.Answer) != 2 {
			return fmt.Sprint(reply, err)
		}
		return reply.Answer[0].(*dns.CNAME).Target
	})
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(append([]string{name}, args...), " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
