package autopath

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// A fakeAPI has pods and one watch at a time.
type fakeAPI struct {
	mu      sync.Mutex // guards what follows
	pods    []*corev1.Pod
	fail    error                    // what List and Watch return
	hang    bool                     // whether Watch waits for its context
	end     func(*watch.FakeWatcher) // what ends each watch at once, or nil
	lists   int
	watches []*watch.FakeWatcher
	options []metav1.ListOptions // of each watch
	largest int64                // page asked for
}

func (a *fakeAPI) List(_ context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return nil, a.fail
	}
	from := 0
	if o.Continue == "" {
		a.lists++
	} else if _, err := fmt.Sscan(o.Continue, &from); err != nil {
		return nil, err
	}
	a.largest = max(a.largest, o.Limit)
	page := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "100"}}
	end := min(len(a.pods), from+int(o.Limit))
	for _, p := range a.pods[from:end] {
		page.Items = append(page.Items, *p)
	}
	if end < len(a.pods) {
		page.Continue = fmt.Sprint(end)
	}
	return page, nil
}

func (a *fakeAPI) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hang {
		a.mu.Unlock()
		<-ctx.Done()
		a.mu.Lock()
		return nil, ctx.Err()
	}
	if a.fail != nil {
		return nil, a.fail
	}
	w := watch.NewFake()
	a.watches = append(a.watches, w)
	a.options = append(a.options, o)
	if a.end != nil && len(a.watches) < 1000 {
		go a.end(w)
	}
	return w, nil
}

func (a *fakeAPI) last() *watch.FakeWatcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watches[len(a.watches)-1]
}

func (a *fakeAPI) set(change func(*fakeAPI)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// following runs a follower in a bubble until test returns, when the pods have settled.
func following(t *testing.T, api *fakeAPI, test func(*testing.T, *follower)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pods"})
		f := newFollower(api, testCluster, gauge)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		test(t, f)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func searches(f *follower, addr string) string {
	scope, ok := f.Scope(context.Background(), netip.MustParseAddr(addr))
	if !ok {
		return ""
	}
	return scope.Search()[0]
}

const blue, green = "blue.svc.cluster.local.", "green.svc.cluster.local."

func TestFollow(t *testing.T) {
	t.Parallel()
	api := new(fakeAPI)
	for i := range 2*pageSize + 1 {
		api.pods = append(api.pods, running(fmt.Sprint(i), "blue", fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
	}
	following(t, api, func(t *testing.T, f *follower) {
		t.Helper()
		<-f.Ready()
		var pods dto.Metric
		if err := f.pods.Write(&pods); err != nil || pods.GetGauge().GetValue() != 2*pageSize+1 || api.largest != pageSize {
			t.Errorf("%v pods of pages of %d, %v", pods.GetGauge().GetValue(), api.largest, err)
		}
		if o := api.options[0]; o.ResourceVersion != "100" || !o.AllowWatchBookmarks || o.FieldSelector != living || *o.TimeoutSeconds < 300 {
			t.Errorf("watch of %+v", o)
		}
		w := api.last()
		steps := []struct {
			what string
			do   func()
			want string
		}{
			{"listed", func() {}, blue},
			{"terminating", func() {
				p := running("0", "blue", "10.0.0.0")
				p.DeletionTimestamp = &metav1.Time{Time: podStart}
				w.Modify(p)
			}, ""},
			{"reused", func() { w.Add(running("n", "green", "10.0.0.0")) }, green},
			{"the old one deleted", func() { w.Delete(running("0", "blue", "10.0.0.0")) }, green},
			{"its end, seen as its deletion", func() { w.Delete(running("n", "green", "10.0.0.0")) }, ""},
		}
		for _, s := range steps {
			s.do()
			synctest.Wait()
			if got := searches(f, "10.0.0.0"); got != s.want {
				t.Errorf("%s: %q, want %q", s.what, got, s.want)
			}
		}
	})
}

// While we do not hear from the API, addresses may change hands: nobody's search is known, until we have heard again.
func TestNothingIsKnownWhileTheWatchIsBroken(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	bookmark := func() *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "150"}} }
	for name, cut := range map[string]func(*fakeAPI){
		"error in the watch": func(a *fakeAPI) {
			a.set(func(a *fakeAPI) { a.fail = down })
			a.last().Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: "etcd"})
		},
		"refused after its end": func(a *fakeAPI) {
			a.set(func(a *fakeAPI) { a.fail = down })
			a.last().Stop()
		},
		"silence": func(a *fakeAPI) {
			a.set(func(a *fakeAPI) { a.fail = down })
			time.Sleep(silence + time.Second)
		},
		"no new watch": func(a *fakeAPI) {
			time.Sleep(shortest)
			a.set(func(a *fakeAPI) { a.hang = true })
			a.last().Stop()
			time.Sleep(connecting + time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &fakeAPI{pods: []*corev1.Pod{running("a", "blue", "10.0.0.1")}}
			following(t, api, func(t *testing.T, f *follower) {
				t.Helper()
				if got := searches(f, "10.0.0.1"); got != blue {
					t.Fatalf("before: %q", got)
				}
				cut(api)
				synctest.Wait()
				if got := searches(f, "10.0.0.1"); got != "" {
					t.Errorf("without the API: %q", got)
				}
				if api.hang {
					return
				}
				api.set(func(a *fakeAPI) { a.fail = nil })
				time.Sleep(maxRetry)
				synctest.Wait()
				if got := searches(f, "10.0.0.1"); got != "" {
					t.Errorf("before anything was heard: %q", got)
				}
				api.last().Action(watch.Bookmark, bookmark())
				synctest.Wait()
				if got := searches(f, "10.0.0.1"); got != blue || api.lists != 1 {
					t.Errorf("after a bookmark: %q with %d lists", got, api.lists)
				}
			})
		})
	}
}

// A watch that ends as it should is followed by another from where it was, and the index stays fresh.
func TestWatchesFollowEachOther(t *testing.T) {
	t.Parallel()
	api := &fakeAPI{pods: []*corev1.Pod{running("a", "blue", "10.0.0.1")}}
	following(t, api, func(t *testing.T, f *follower) {
		t.Helper()
		p := running("b", "green", "10.0.0.2")
		p.ResourceVersion = "120"
		api.last().Add(p)
		synctest.Wait()
		api.last().Stop()
		time.Sleep(connecting + time.Second)
		synctest.Wait()
		if got := searches(f, "10.0.0.2"); got != green || api.lists != 1 || len(api.options) != 2 || api.options[1].ResourceVersion != "120" {
			t.Errorf("%q after %d lists and watches of %+v", got, api.lists, api.options)
		}
	})
}

// A version too old for the API is listed anew, and what has gone meanwhile is gone.
func TestExpired(t *testing.T) {
	t.Parallel()
	api := &fakeAPI{pods: []*corev1.Pod{running("a", "blue", "10.0.0.1"), running("b", "blue", "10.0.0.2")}}
	following(t, api, func(t *testing.T, f *follower) {
		t.Helper()
		api.set(func(a *fakeAPI) {
			a.pods = []*corev1.Pod{running("c", "green", "10.0.0.1")}
		})
		status := apierrors.NewResourceExpired("too old").Status()
		api.last().Error(&status)
		synctest.Wait()
		if got := searches(f, "10.0.0.2"); got != "" {
			t.Errorf("before the list: %q", got)
		}
		time.Sleep(minRetry)
		synctest.Wait()
		got := []string{searches(f, "10.0.0.1"), searches(f, "10.0.0.2")}
		if !slices.Equal(got, []string{green, ""}) || api.lists != 2 {
			t.Errorf("%q after %d lists", got, api.lists)
		}
	})
}

// An API that ends each watch at once, or expires the version it has just listed, is asked less and less often, and what
// it said is not taken for the truth.
func TestWatchesThatDoNotWork(t *testing.T) {
	t.Parallel()
	expired := apierrors.NewResourceExpired("too old").Status()
	for name, end := range map[string]func(*watch.FakeWatcher){
		"closed":  func(w *watch.FakeWatcher) { w.Stop() },
		"expired": func(w *watch.FakeWatcher) { w.Error(&expired) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &fakeAPI{pods: []*corev1.Pod{running("a", "blue", "10.0.0.1")}, end: end}
			following(t, api, func(t *testing.T, f *follower) {
				t.Helper()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				watches := len(api.options)
				if got := searches(f, "10.0.0.1"); watches < 20 || watches > 60 || api.lists > watches || got != "" {
					t.Errorf("%d watches and %d lists in 10 minutes, then %q", watches, api.lists, got)
				}
				// One that works ends the series.
				api.set(func(a *fakeAPI) { a.end = nil })
				time.Sleep(maxRetry)
				api.last().Action(watch.Bookmark, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "150"}})
				synctest.Wait()
				if got := searches(f, "10.0.0.1"); got != blue {
					t.Errorf("after a bookmark: %q", got)
				}
				watches = len(api.options)
				api.last().Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError})
				time.Sleep(minRetry)
				synctest.Wait()
				if len(api.options) != watches+1 {
					t.Errorf("%d watches after a failure, want 1", len(api.options)-watches)
				}
			})
		})
	}
}

// Until everything is listed once, we are not ready and search for nobody.
func TestNotReadyBeforeTheFirstList(t *testing.T) {
	t.Parallel()
	api := &fakeAPI{fail: errors.New("forbidden")}
	following(t, api, func(t *testing.T, f *follower) {
		t.Helper()
		a := &Autopath{ready: f.Ready()}
		if a.Ready() {
			t.Error("ready")
		}
		api.set(func(a *fakeAPI) { a.fail = nil })
		<-f.Ready()
		if !a.Ready() {
			t.Error("not ready")
		}
	})
}
