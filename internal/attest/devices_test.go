package attest

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"keylime/internal/policy"
)

const (
	dmEvent   = "ima.validation.dm."
	dmDevice  = "name=root,uuid=LVM-1,major=253,minor=0,minor_count=1,num_targets=1"
	dmTable   = "dm_version=4.45.0;" + dmDevice + ";target_index=0,target_begin=0,target_len=8,target_name=linear,target_version=1.4.0,device_name=254:2,start=0;"
	dmRemoved = "dm_version=4.45.0;device_active_metadata=" + dmDevice + ";active_table_hash=sha256:aa,remove_all=n;current_device_capacity=8;"
)

// dmPolicy requires a device LVM-…, made of one linear target.
func dmPolicy(t testing.TB, deviceName string) *policy.Set {
	t.Helper()
	rules := fmt.Sprintf(`{"version":1,"match_on":"uuid","rules":{"root":{"required":true,"device_resume_required":true,
		"device_rename":{"valid_name":false,"valid_uuid":false},"device_remove":{"allow_removal":false},"allow_clear":false,
		"table_load":{"allow_multiple_loads":false,"name":"root","uuid":"LVM-.*","major":253,"minor":0,"minor_count":1,"num_targets":1,
		"targets":[{"target_name":"linear","device_name":%q}]}}}}`, deviceName)
	text := strings.NewReplacer(`"dm_policy":null`, `"dm_policy":`+rules, `"generator":1`, `"generator":2`).Replace(policy.EmptyRuntime)
	runtime, err := policy.CompileRuntime([]byte(text), policy.DMPolicy)
	if err != nil {
		t.Fatal(err)
	}
	return set(t, runtime, `{"mask":"0x400"}`)
}

func (k *kernel) deviceEvent(t testing.TB, name, text string) {
	t.Helper()
	k.buffer(t, name, digestOf([]byte(text)), []byte(text))
}

// activate is what the kernel measures when the table that was loaded last is activated.
func (k *kernel) activate(t testing.TB, table string) {
	t.Helper()
	k.deviceEvent(t, "dm_device_resume", "dm_version=4.45.0;"+dmDevice+";active_table_hash=sha256:"+hex.EncodeToString(digestOf([]byte(table)))+";current_device_capacity=8;")
}

// HARDEN 11, NT-3D: the policy for devices is held to, from round to round.
func TestDeviceMapper(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	k.policy = dmPolicy(t, "254:2")
	expect(t, k.goOn(t), dmEvent+"required_policy_not_in_use")
	k.deviceEvent(t, "dm_table_load", dmTable)
	expect(t, k.goOn(t), dmEvent+"device_invalid_state,"+dmEvent+"required_policy_not_in_use")
	k.activate(t, dmTable)
	expect(t, k.goOn(t), "pass")
	state, err := DecodeState(k.state.Encode())
	if err != nil {
		t.Fatal(err)
	}
	k.state = state
	expect(t, k.goOn(t), "pass")
	k.deviceEvent(t, "dm_device_remove", dmRemoved)
	expect(t, k.goOn(t), dmEvent+"dm_device_remove.device_removed,"+dmEvent+"device_invalid_state,"+dmEvent+"required_policy_not_in_use")
	if k.state.DeviceMapper != nil {
		t.Error("a failure keeps devices")
	}
}

// What a device is made of, and what the kernel did not write.
func TestDeviceMapperRefuses(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	k.policy = dmPolicy(t, "254:7")
	k.deviceEvent(t, "dm_table_load", dmTable)
	k.activate(t, dmTable)
	expect(t, k.judge(t), dmEvent+"dm_table_load.target_data_mismatch,"+dmEvent+"dm_table_load.target_data_invalid")

	k = newKernel(t)
	k.policy = dmPolicy(t, "254:2")
	k.buffer(t, "dm_table_load", digestOf([]byte("another")), []byte(dmTable))
	k.deviceEvent(t, "dm_target_update", "HARDEN 12: not understood")
	k.deviceEvent(t, "selinux-state", "critical data is not the device mapper's")
	expect(t, k.judge(t), dmEvent+"invalid_data,"+dmEvent+"parsing_failed,"+notListed+","+dmEvent+"required_policy_not_in_use")

	// Without a policy for devices they are critical data like any other.
	k = newKernel(t)
	k.deviceEvent(t, "dm_table_load", dmTable)
	expect(t, k.judge(t), notListed)
}

// Entries that no quote covers change no device for good.
func TestUnprovenDeviceEventsAreNotKept(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	k.policy = dmPolicy(t, "254:2")
	k.deviceEvent(t, "dm_table_load", dmTable)
	covered := len(k.list)
	k.unproven(t, func() { k.activate(t, dmTable) })
	expect(t, k.goOn(t), dmEvent+"device_invalid_state,"+dmEvent+"required_policy_not_in_use")
	k.list = k.list[:covered]
	k.activate(t, dmTable)
	k.state = State{}
	expect(t, k.goOn(t), "pass")
	k.unproven(t, func() { k.deviceEvent(t, "dm_table_load", "x") })
	expect(t, k.goOn(t), dmEvent+"parsing_failed")
}

// A policy that begins to ask for devices, or asks otherwise, needs the list from its beginning.
func TestNewDevicePolicyReadsTheListAgain(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	k.policy = compile(t, "", `"dm_"`, "")
	k.deviceEvent(t, "dm_table_load", dmTable)
	k.activate(t, dmTable)
	expect(t, k.goOn(t), "pass")
	for _, next := range []*policy.Set{dmPolicy(t, "254:2"), dmPolicy(t, "254:.")} {
		k.policy = next
		expect(t, k.goOn(t), "again")
		expect(t, k.goOn(t), "pass")
		expect(t, k.goOn(t), "pass")
	}
	k.policy = dmPolicy(t, "254:9")
	expect(t, k.goOn(t), "again")
	expect(t, k.goOn(t), dmEvent+"dm_table_load.target_data_mismatch,"+dmEvent+"dm_table_load.target_data_invalid")
}
