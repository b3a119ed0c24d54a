package aliyun_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// A clock is a time that moves when told to.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func TestMetadataInstance(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]sim.TokenMode{
		"tokens optional": sim.TokensOptional, "tokens required": sim.TokensRequired, "tokens unknown": sim.TokensUnknown,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, url := cloudOf(t, func(c *sim.Config) { c.Tokens = mode })
			got, err := aliyun.NewMetadata(url + "/").Instance(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != "i-1" || got.Type != "ecs.sim.small" || got.RegionID != sim.DefaultRegion ||
				got.ZoneID != sim.DefaultZone || got.VPCID != sim.DefaultVPC || got.VSwitchID != sim.DefaultNodeVSwitch {
				t.Errorf("instance = %+v", got)
			}
		})
	}
}

// A token that the service forgets is replaced, and the call succeeds.
func TestMetadataTokenIsRenewed(t *testing.T) {
	t.Parallel()
	var cloudTime clock
	_, url := cloudOf(t, func(c *sim.Config) { c.Tokens, c.Now = sim.TokensRequired, cloudTime.now })
	m := aliyun.NewMetadata(url)
	if _, err := m.Instance(t.Context()); err != nil {
		t.Fatal(err)
	}
	cloudTime.advance(7 * time.Hour) // the client does not know
	if _, err := m.Instance(t.Context()); err != nil {
		t.Error(err)
	}
	var clientTime clock
	m.SetClock(clientTime.now)
	clientTime.advance(7 * time.Hour)
	if _, err := m.Instance(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMetadataErrors(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		serve http.HandlerFunc
		class error
	}{
		{"refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, aliyun.ErrForbidden},
		{"token never accepted", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				_, _ = w.Write([]byte("token"))
				return
			}
			w.WriteHeader(http.StatusUnauthorized)
		}, aliyun.ErrForbidden},
		{"missing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, aliyun.ErrNotFound},
		{"failing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, aliyun.ErrUnavailable},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, aliyun.ErrForbidden},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>log in</html>")) }, nil},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.serve)
			t.Cleanup(server.Close)
			in, err := aliyun.NewMetadata(server.URL).Instance(t.Context())
			if err == nil || in.ID != "" || tc.class != nil && !errors.Is(err, tc.class) {
				t.Errorf("Instance = %+v, %v; want %v", in, err, tc.class)
			}
		})
	}
}

func TestMetadataIsRetried(t *testing.T) {
	t.Parallel()
	cloud, err := sim.New(sim.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cloud.RunInstance(t.Context(), sim.InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch}); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		cloud.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	if _, err := aliyun.NewMetadata(server.URL).Role(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRoleCredentials(t *testing.T) {
	t.Parallel()
	var now clock
	_, url := cloudOf(t, func(c *sim.Config) { c.Now = now.now })
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(url), "", nil)
	creds.SetClock(now.now)
	first, err := creds.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(first.AccessKeyID, "STS.") || first.SecurityToken == "" {
		t.Errorf("keys %+v are not temporary", first)
	}
	// The API accepts them only with their token.
	if _, err := clientOf(t, url, creds).CreateENI(t.Context(), podENI()); err != nil {
		t.Errorf("with role keys: %v", err)
	}
	static := aliyun.StaticCredentials(first)
	static.SecurityToken = ""
	if _, err := clientOf(t, url, static).CreateENI(t.Context(), podENI()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("without the token: %v, want ErrForbidden", err)
	}
	if again, err := creds.Keys(t.Context()); err != nil || again != first {
		t.Errorf("keys changed within their life: %v, %v", again, err)
	}
	now.advance(46 * time.Minute)
	second, err := creds.Keys(t.Context())
	if err != nil || second == first {
		t.Errorf("keys were not renewed with 14 minutes left: %v, %v", second, err)
	}
}

// While the metadata service is down the old keys serve, until they expire.
func TestRoleCredentialsOutliveTheMetadataService(t *testing.T) {
	t.Parallel()
	var now clock
	cloud, _ := cloudOf(t, func(c *sim.Config) { c.Now = now.now })
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		cloud.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(server.URL), sim.DefaultRAMRole, nil)
	creds.SetClock(now.now)
	first, err := creds.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	now.advance(50 * time.Minute)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if k, err := creds.Keys(t.Context()); err != nil || k != first {
				t.Errorf("keys with 10 minutes left = %v, %v; want the old ones", k, err)
			}
		})
	}
	wg.Wait()
	now.advance(11 * time.Minute)
	if k, err := creds.Keys(t.Context()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("after expiry = %v, %v", k, err)
	}
	down.Store(false)
	if k, err := creds.Keys(t.Context()); err != nil || k == first {
		t.Errorf("when the service is back = %v, %v", k, err)
	}
}

func TestRoleCredentialsWithoutARole(t *testing.T) {
	t.Parallel()
	_, url := cloudOf(t, func(c *sim.Config) { c.RAMRole = "" })
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(url), "", nil)
	if _, err := creds.Keys(t.Context()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("error %v, want ErrForbidden", err)
	}
}

func TestRoleCredentialsHonourTheContext(t *testing.T) {
	t.Parallel()
	blocked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-blocked:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	defer close(blocked)
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(server.URL), "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 { // one asks, the others wait for it
		wg.Go(func() {
			if _, err := creds.Keys(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
		})
	}
	cancel()
	wg.Wait()
}

// A caller with keys that still work does not wait for another's renewal.
func TestRoleCredentialsDoNotWaitForARenewal(t *testing.T) {
	t.Parallel()
	var now clock
	cloud, _ := cloudOf(t, func(c *sim.Config) { c.Now = now.now })
	var slow atomic.Bool
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.CompareAndSwap(true, false) {
			close(arrived)
			<-release
		}
		cloud.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(server.URL), "", nil)
	creds.SetClock(now.now)
	old, err := creds.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now.advance(50 * time.Minute)
	slow.Store(true)
	renewed := make(chan aliyun.Keys)
	go func() {
		k, err := creds.Keys(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Error(err)
		}
		renewed <- k
	}()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if k, err := creds.Keys(ctx); err != nil || k != old || ctx.Err() != nil {
		t.Errorf("during a renewal = %v, %v, context %v; want the old keys at once", k, err, ctx.Err())
	}
	close(release)
	if k := <-renewed; k == old {
		t.Error("the renewal gave the old keys")
	}
}
