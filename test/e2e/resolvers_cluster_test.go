//go:build cluster

package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/test/kube"
)

//go:embed testdata/resolvers.yaml
var resolversYAML string

// resolversImage has everything of PodappImage that pods here run, and programs that look names up with the C libraries.
const resolversImage = "localhost/nearpath/resolvers:test"

// rounds are how often a name is looked up: what the kernel gives comes with the third time.
const rounds = "3"

// resolvers are the commands before the names.
var resolvers = map[string][]string{
	"glibc": {"/bin/lookup-glibc", rounds},
	"musl":  {"/bin/lookup-musl", rounds},
	"Go":    {"/podapp", "names", "--rounds", rounds},
}

// lookedUp are names of every kind, and whether there is anything.
var lookedUp = map[string]bool{
	"web": true, "web.shop": true, "web.shop.svc.cluster.local": true, "kubernetes.default": true, "kube-dns.kube-system.svc": true,
	"pods": true, "pods.shop.svc": true, "nobody": false, "outside": true, "_http._tcp.web.shop.svc.cluster.local": true,
	"_http._tcp.pods.shop.svc.cluster.local": true, "_dns._udp.kube-dns.kube-system.svc.cluster.local": true, "_none._tcp.web.shop.svc.cluster.local": false,
	"www.example.com": true, "v4.example.com": true, "v6.example.com": true, "alias.example.com": true, "www.example.com.": true,
	"empty.example.com": false, "none.example.com": false, "missing": false, "missing.shop": false, "missing.shop.svc.cluster.local": false,
	"near": true, "printer": true,
}

// outsideNames are what the server of the VPC has.
var outsideNames = []string{
	"www.example.com. 300 IN A 203.0.113.10", "www.example.com. 300 IN AAAA 2001:db8:ffff::10", "v4.example.com. 300 IN A 203.0.113.11",
	"v6.example.com. 300 IN AAAA 2001:db8:ffff::12", "alias.example.com. 300 IN CNAME www.example.com.", `empty.example.com. 300 IN TXT "nothing else"`,
	"near.vpc.internal. 300 IN A 203.0.113.13", "printer.team.example. 300 IN A 203.0.113.14",
}

// buildResolvers makes the image.
func buildResolvers(t *testing.T, bin string) kube.Image {
	t.Helper()
	dir := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/podapp": filepath.Join(bin, "podapp"), "/bin/busybox": busybox}
	compile := func(libc string, command ...string) string {
		program := filepath.Join(dir, libc)
		cmd := exec.CommandContext(t.Context(), command[0], append(command[1:], "-o", program, "testdata/lookup.c")...)
		if libc == "glibc" {
			cmd.Args = append(cmd.Args, "-lresolv")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build with %s, which make setup installs: %v: %s", libc, err, out)
		}
		files["/bin/lookup-"+libc] = program
		return program
	}
	compile("musl", "musl-gcc", "-static")
	// Linked statically, glibc would still look for its libraries.
	out, err := exec.CommandContext(t.Context(), "ldd", compile("glibc", "gcc")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for field := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(field, "/") {
			files[field] = field
		}
	}
	return kube.Image{Ref: resolversImage, Entrypoint: []string{"/podapp"}, Files: files}
}

// checkResolvers has every resolver look up every name in pods of each datapath, and in a pod that asks CoreDNS itself: they
// find the same, each time.
func (r *rig) checkResolvers(t *testing.T) {
	t.Helper()
	server := r.Kubectl(t, "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[0].status.podIP}")
	r.Apply(t, strings.ReplaceAll(resolversYAML, "SERVER", server))
	r.WaitReady(t, "shop/custom", "shop/direct", "shop/custom-direct")
	for direct, pods := range map[string][]string{"direct": {"client-n1", "client-n2", "client-own"}, "custom-direct": {"custom"}} {
		for _, resolver := range slices.Sorted(maps.Keys(resolvers)) {
			want := r.lookUp(t, direct, resolver)
			for name, exists := range lookedUp {
				switch {
				case direct == "direct" && name == "printer":
					exists = false // only custom searches where it is
				case direct == "custom-direct" && resolver == "musl" && strings.Count(name, ".") == 2 && strings.HasSuffix(name, ".svc"):
					exists = false // musl does not search with as many dots as ndots
				}
				if got := want[name]; (got != "none") != exists {
					t.Errorf("%s in %s finds %s: %s", resolver, direct, name, got)
				}
			}
			for _, pod := range pods {
				for name, got := range r.lookUp(t, pod, resolver) {
					if got != want[name] {
						t.Errorf("%s in %s finds %s: %s; from CoreDNS: %s", resolver, pod, name, got, want[name])
					}
				}
			}
		}
	}
	for _, pod := range []string{"client-n1", "client-n2", "client-own", "custom"} {
		r.checkScope(t, pod)
	}
}

// lookUp returns what a resolver in a pod finds, in an order of its own. It has to be the same in every round.
func (r *rig) lookUp(t *testing.T, pod, resolver string) map[string]string {
	t.Helper()
	found := map[string]string{}
	lines := r.Exec(t, "shop/"+pod, slices.Concat(resolvers[resolver], slices.Sorted(maps.Keys(lookedUp)))...)
	for line := range strings.Lines(lines) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		records := strings.Fields(rest)
		slices.Sort(records)
		text := strings.Join(slices.Compact(records), " ")
		if before, ok := found[name]; ok && before != text {
			t.Errorf("%s in %s finds %s: %s, and then %s", resolver, pod, name, before, text)
		}
		found[name] = text
	}
	if len(found) != len(lookedUp) {
		t.Fatalf("%s in %s looked %d of %d names up:\n%s", resolver, pod, len(found), len(lookedUp), lines)
	}
	return found
}

// checkScope compares how a pod searches: as the agent knows it, by the file that containerd keeps for the sandbox, and by the
// file that the container sees.
func (r *rig) checkScope(t *testing.T, pod string) {
	t.Helper()
	n := r.Node(t, r.Pod(t, "shop/"+pod).Spec.NodeName)
	nearpath := filepath.Join(r.bin, "nearpath")
	var view struct {
		Agent struct {
			Search []string
			Ndots  int
		}
	}
	out, err := n.Command(t.Context(), nearpath, "explain", "dns", "shop/"+pod, "web", "-o", "json").Output()
	if err != nil || json.Unmarshal(out, &view) != nil {
		t.Fatalf("explain dns: %v: %s", err, out)
	}
	var pods []struct{ Name, ContainerID string }
	out, err = n.Command(t.Context(), nearpath, "get", "pods", "-o", "json").Output()
	if err != nil || json.Unmarshal(out, &pods) != nil {
		t.Fatalf("get pods: %v: %s", err, out)
	}
	at := slices.IndexFunc(pods, func(p struct{ Name, ContainerID string }) bool { return p.Name == pod })
	if at < 0 {
		t.Fatalf("%s is not among %v", pod, pods)
	}
	sandbox := fmt.Sprintf("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/%s/resolv.conf", pods[at].ContainerID)
	file, err := n.Command(t.Context(), "cat", sandbox).Output()
	if err != nil {
		t.Fatalf("read %s: %v", sandbox, err)
	}
	agent := fmt.Sprintf("search %s, ndots %d", strings.ReplaceAll(strings.Join(view.Agent.Search, " ")+" ", ". ", " "), view.Agent.Ndots)
	for what, text := range map[string]string{"sandbox": string(file), "container": r.Exec(t, "shop/"+pod, "/bin/busybox", "cat", "/etc/resolv.conf")} {
		if got := searchOf(text); got != agent {
			t.Errorf("%s searches by its %s: %s; the agent says: %s", pod, what, got, agent)
		}
	}
}

// searchOf reads a resolv.conf.
func searchOf(text string) string {
	search, ndots := "", 1
	for line := range strings.Lines(text) {
		switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "search":
			search = rest + " "
		case "options":
			for option := range strings.FieldsSeq(rest) {
				if n, err := strconv.Atoi(strings.TrimPrefix(option, "ndots:")); err == nil && strings.HasPrefix(option, "ndots:") {
					ndots = n
				}
			}
		}
	}
	return fmt.Sprintf("search %s, ndots %d", search, ndots)
}
