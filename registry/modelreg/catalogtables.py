"""The tables of ``catalog.db``."""

from __future__ import annotations

import sqlalchemy as sa

#: The layout of the tables; another one is thrown away and made again.
LAYOUT = 5

tables = sa.MetaData()

models = sa.Table(
    "models",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("head", sa.Text),
    sa.Column("broken", sa.Text),
    sa.Column("mark", sa.Text, nullable=False),
    sa.Column("marks", sa.Text, nullable=False),
)
versions = sa.Table(
    "versions",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("ref", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("lifecycle", sa.Text, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("task_type", sa.Text),
    sa.Column("model_type", sa.Text),
    sa.Column("config_hash", sa.Text),
    sa.Column("parent", sa.Text),
    sa.Column("size_bytes", sa.Integer),
    sa.Column("problem", sa.Text),
    sa.Column("row", sa.Text, nullable=False),
    sa.Index("versions_newest", "at", "seq", "name"),
    sa.Index("versions_of_model", "name", "seq"),
    sa.Index("versions_config", "config_hash"),
    sa.Index("versions_parent", "parent"),
    sa.Index("versions_status", "status", "at"),
)
metrics = sa.Table(
    "metrics",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("metric", sa.Text, primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    sa.Index("metrics_value", "metric", "value"),
)
channels = sa.Table(
    "channels",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("version", sa.Text),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Index("channels_held", "channel", "version"),
)
tags = sa.Table(
    "tags",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Index("tags_tag", "tag"),
)
