package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/aliyun"
)

// syncerConfig names the configuration file of the syncer that the test's own program becomes.
const syncerConfig = "NEARPATH_TEST_SYNCER_CONFIG"

// TestMemoryOfASyncer: a syncer of 50,000 pods and 10,000 Services is a process of about 150 MiB. That it is no more is a
// budget of the benchmarks; here a fifth is left to what the machine makes of a program's pages.
func TestMemoryOfASyncer(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(syncerConfig); path != "" {
		becomeSyncer(t, path)
		return
	}
	const pods, services, limit = 50_000, 10_000, 180.0
	r := newAPIRig(t)
	for i := range services {
		name, ip := fmt.Sprint("web-", i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		r.serve(t, name, ip)
		if _, err := r.PrivateZone().Add(aliyun.ZoneRecord{
			ZoneID: corpZone, RR: name, Type: "A", Value: ip, TTL: 60,
			Remark: externaldns.Owner("prod").Remark(externaldns.Object{Kind: "Service", Namespace: "shop", Name: name}),
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pods {
		if err := r.api.Put(ordinaryPod(i)); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "s.sock")
	writeFile(t, path, r.configText(t, "manifests: ''", "kubeconfig: "+r.kubeconfig, "socket: "+socket, "names: {sources: [service, pod]}"))
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfASyncer$")
	cmd.Env = append(os.Environ(), syncerConfig+"="+path)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the syncer ended with %v", err)
		}
	})
	r.until(t, "everything as wanted", func() bool {
		st, err := zoneVerb[zoneStatusView](t, socket, "status")
		return err == nil && st.Synced && len(st.Zones) == 2 && st.Zones[0].Owned+st.Zones[1].Owned == services && st.Pending["backlog"]+st.Pending["fresh"] == 0
	})
	// What the start took is given back right after it.
	resident := 0.0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if resident = residentMiB(t, cmd.Process.Pid); resident <= limit {
			break
		}
	}
	t.Logf("a syncer of %d pods and %d Services: %.0f MiB resident, %d writes", pods, services, resident, r.writes())
	if resident > limit || r.writes() > 0 {
		t.Errorf("%.0f MiB, at most %v; %d writes, none is needed", resident, limit, r.writes())
	}
}

// becomeSyncer runs a syncer until standard input ends.
func becomeSyncer(t *testing.T, path string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := newPublisherFile(path, false, new(slog.LevelVar), slog.New(slog.DiscardHandler)).run(ctx); err != nil {
		t.Error(err)
		return
	}
	os.Exit(0) // the connections that are kept for more requests are no leak of a process that ends
}

// ordinaryPod asks for nothing, as most do.
func ordinaryPod(i int) *corev1.Pod {
	app, ip := fmt.Sprint("app-", i/10), netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)}).String()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("team-", i/500), Name: fmt.Sprintf("%s-6d4cf56db6-%05d", app, i), UID: types.UID(fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7e-%012d", i)),
			Labels:        map[string]string{"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6d4cf56db6", "team": strconv.Itoa(i / 500)},
			Annotations:   map[string]string{"checksum/config": fmt.Sprintf("%064d", i), "prometheus.io/scrape": "true"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:status":{"f:conditions":{"` + strings.Repeat("x", 500) + `":{}}}}`)}}},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprint("node-", i/100), Containers: []corev1.Container{{Name: "app", Image: "registry.example.com/shop/" + app}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// residentMiB is the memory of a process as the kernel counts its pages.
func residentMiB(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("process %d has no memory", pid)
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}
