"""Predictions behind the cache in Flask: ``flask --app examples/flask_app run``."""

from __future__ import annotations

import time

from flask import Flask, Response, current_app, jsonify

from smartcache import key_factory
from smartcache.sync import SyncCache

app = Flask(__name__)
app.config["MODEL_SECONDS"] = 0.2
# A refresh outlives the request that it was started behind, so it is given an application context of its own.
cache = SyncCache(worker_context=app.app_context)


def predict(match_id: str, market: str) -> dict[str, object]:
    """Stands for a slow model; what it reads from Flask is there in the request's thread and in a worker's."""
    time.sleep(current_app.config["MODEL_SECONDS"])
    return {"match_id": match_id, "market": market, "yes": 0.6}


@app.get("/matches/<match_id>/markets/<market>")
def prediction(match_id: str, market: str) -> Response:
    """One prediction, and why it was served."""
    result = cache.get_with_intelligence(
        key_factory.prediction(match_id, market),
        lambda: predict(match_id, market),
        {"match_id": match_id, "market": market},
    )
    return jsonify(prediction=result.value, strategy=result.strategy, reasoning=result.metadata.reasoning)


@app.post("/matches/<match_id>/events/<event_type>")
def event(match_id: str, event_type: str) -> Response:
    """Something has happened: what it makes wrong is retired."""
    return jsonify(cache.invalidate_by_event(event_type, f"match:{match_id}"))
