"""The configuration files of the test cluster's ZooKeeper and nodes, with places for ports and names."""

from __future__ import annotations

ZOO_CFG = """\
tickTime=500
dataDir={folder}/data
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
minSessionTimeout=1000
maxSessionTimeout=120000
admin.enableServer=false
4lw.commands.whitelist=*
snapCount=100000
fsync.warningthresholdms=10000
"""
CONFIG = """\
<clickhouse>
    <http_port>{http_port}</http_port>
    <tcp_port>{tcp_port}</tcp_port>
    <listen_host>{query_host}</listen_host>
    <listen_host>{interserver_host}</listen_host>
    <display_name>{name}</display_name>
    <users_config>users.xml</users_config>
    <macros>
        <cluster>{cluster}</cluster>
        <shard>{shard}</shard>
        <replica>{replica}</replica>
    </macros>
    <zookeeper>
        <node><host>{query_host}</host><port>{zookeeper_port}</port></node>
        <session_timeout_ms>{session_ms}</session_timeout_ms>
    </zookeeper>
    <auxiliary_zookeepers>
        <other>
            <node><host>{query_host}</host><port>{zookeeper_port}</port></node>
            <root>/other</root>
        </other>
    </auxiliary_zookeepers>
    <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
    <remote_servers><{cluster}>{layout}</{cluster}></remote_servers>
    <background_schedule_pool_size>16</background_schedule_pool_size>
    <mark_cache_size>67108864</mark_cache_size>
    <query_log>
        <database>system</database><table>query_log</table>
        <flush_interval_milliseconds>{flush_ms}</flush_interval_milliseconds>
    </query_log>
    <logger><level>{log_level}</level><log>{folder}/server.log</log></logger>
    {config}
</clickhouse>
"""
# A node aborts when a peer cuts a native connection, as a hedged request does with the slower of two replicas.
HEDGED = "<use_hedged_requests>0</use_hedged_requests>"
USERS = """\
<clickhouse>
    <profiles>
        <default>{settings}{hedged}</default>
        <plain>{hedged}</plain>
        <quorum><insert_quorum>2</insert_quorum>{hedged}</quorum>
    </profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <access_management>1</access_management>
        </default>
        <quorum>
            <password/>
            <networks><ip>::/0</ip></networks>
            <profile>quorum</profile>
            <quota>default</quota>
        </quorum>
        <alone>
            <password/>
            <networks><ip>::/0</ip></networks>
            <profile>plain</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, SYSTEM SYNC REPLICA, TABLE ENGINE ON *.*</query>
            </grants>
        </alone>
    </users>
</clickhouse>
"""
